"""Shards: training files that hold many images and their records, as tar or Parquet.

Webdataset reads the tar files, Hugging Face's ``datasets`` the Parquet files. The same samples in
the same order give the same bytes.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Sample = tuple[Mapping[str, Any], bytes]
"""A record, with ``FIELDS`` and ``file_name``, and the bytes of its image file."""

FIELDS = ("pair_id", "label", "content_uri", "style_uri",
          "total_loss", "content_loss", "style_loss")  # fmt: skip
"""Record columns that a shard holds for each image."""

NO_CLASS = -1
"""Class index of a sample without a label in a tar; ``datasets`` uses the same."""

GROUP_ROWS, GROUP_BYTES = 100, 2**26
"""Rows and bytes of images after which a Parquet row group ends.

To read one row, readers load its whole row group.
"""

VALUES: Mapping[str, tuple[pa.DataType, Any]] = {
    "pair_id": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "content_uri": (pa.string(), {"dtype": "string", "_type": "Value"}),
    "style_uri": (
        pa.list_(pa.string()),
        {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    ),
    "total_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "content_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "style_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
}
"""Arrow type and ``datasets`` feature of each column."""


def class_indices(labels: Iterable[str]) -> dict[str, int]:
    """Return a number for each label in sorted order, as torchvision's ImageFolder does."""
    return {label: index for index, label in enumerate(sorted(set(labels)))}


def key_of(pair_id: str) -> str:
    """Return a pair's name in a tar, where a dot would end it and a slash begin a folder.

    Characters that may do harm become ``%XX``, so different ids have different keys.
    ``urllib.parse.unquote`` returns the id.
    """
    return re.sub(r"[^\w ,()+=@~-]", _percent, pair_id)


def _percent(found: "re.Match[str]") -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def write_tar(samples: Iterable[Sample], classes: Mapping[str, int]) -> bytes:
    """Return a tar of ``KEY.cls`` (if there are classes), ``KEY.json`` and ``KEY.png|jpg|webp``.

    Owner, mode and time of the members are constant.

    Args:
        samples: records and images, with distinct pair ids.
        classes: index of each label; empty for unlabelled data.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for row, image in samples:
            fields = {"json": json.dumps({name: row[name] for name in FIELDS}).encode()}
            fields[_ending(row)] = image
            if classes:
                fields["cls"] = str(classes.get(row["label"], NO_CLASS)).encode()
            for ending, data in sorted(fields.items()):
                member = tarfile.TarInfo(f"{key_of(row['pair_id'])}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_parquet(samples: Iterable[Sample], classes: Mapping[str, int]) -> bytes:
    """Return a Parquet file that declares images and classes to Hugging Face's ``datasets``.

    Args:
        samples: as for ``write_tar``.
        classes: index of each label, without gaps; empty for unlabelled data.
    """
    schema = parquet_schema(classes)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, use_dictionary=["content_uri"]) as writer:
        for group in _groups(samples):
            rows = [_parquet_row(row, image, classes) for row, image in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return buffer.getvalue()


def parquet_schema(classes: Mapping[str, int]) -> pa.Schema:
    """Return the columns of a Parquet shard with their ``huggingface`` metadata.

    Args:
        classes: as for ``write_parquet``; without classes there is no column ``label``.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, pa.DataType]] = [("image", image)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if classes:
        fields.append(("label", pa.int64()))
        features["label"] = {"names": sorted(classes, key=classes.__getitem__)}
        features["label"]["_type"] = "ClassLabel"
    for name, (kind, feature) in VALUES.items():
        fields.append((name, kind))
        features[name] = feature
    told = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": told})


def _parquet_row(
    row: Mapping[str, Any], image: bytes, classes: Mapping[str, int]
) -> dict[str, Any]:
    path = f"{key_of(row['pair_id'])}.{_ending(row)}"
    return {
        **{name: row[name] for name in VALUES},
        "image": {"bytes": image, "path": path},
        "label": classes.get(row["label"]),
    }


def _groups(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size = 0
    for sample in samples:
        group.append(sample)
        size += len(sample[1])
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _ending(row: Mapping[str, Any]) -> str:
    ending: str = row["file_name"].rpartition(".")[2]
    return ending
