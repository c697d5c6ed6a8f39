"""Shards: training files that hold many images and their records, as tar or Parquet.

Webdataset reads the tar files, Hugging Face's ``datasets`` the Parquet files. The same samples in
the same order give the same bytes.
"""

import io
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest.lineage import Lineage

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

TEXT: tuple[pa.DataType, Any] = (pa.string(), {"dtype": "string", "_type": "Value"})
"""Arrow type and ``datasets`` feature of a text."""

VALUES: Mapping[str, tuple[pa.DataType, Any]] = {
    "pair_id": TEXT,
    "content_uri": TEXT,
    "style_uri": (
        pa.list_(pa.string()),
        {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"},
    ),
    "total_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "content_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
    "style_loss": (pa.float64(), {"dtype": "float64", "_type": "Value"}),
}
"""Arrow type and ``datasets`` feature of each column."""


@dataclass(frozen=True)
class Columns:
    """What shards hold beside images and ``FIELDS``.

    Attributes:
        classes: index of each label; empty for unlabelled data.
        names: of the classes by index, as the source spells them; without gaps.
        credits: texts that tell licences and authors.
    """

    classes: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] = ()
    credits: Sequence[str] = ()


def columns_of(labels: Collection[str], lineage: Lineage) -> Columns:
    """Return the columns for records with these labels.

    The source's ids are kept if it has one for each of them, and its other classes with them.
    Otherwise labels are numbered in sorted order, as torchvision's ImageFolder numbers folders.
    """
    ids = lineage.ids
    if not labels or not {*labels} <= ids.keys():
        names = sorted({*labels})
        return Columns({name: index for index, name in enumerate(names)}, names, lineage.credits)
    by_id = {number: label for label, number in ids.items()}
    classes = dict(ids)
    for number in range(max(by_id)):  # ids that the source leaves out
        if number not in by_id:
            name = str(number)
            while name in classes:
                name = f"class-{name}"
            classes[name], by_id[number] = number, name
    known = lineage.names if len(lineage.names) == len(by_id) else ()
    names = list(known or map(by_id.__getitem__, range(len(by_id))))
    in_order = sorted(classes.items(), key=lambda item: item[1])
    return Columns(dict(in_order), names, lineage.credits)


def key_of(pair_id: str) -> str:
    """Return a pair's name in a tar, where a dot would end it and a slash begin a folder.

    Characters that may do harm become ``%XX``, so different ids have different keys.
    ``urllib.parse.unquote`` returns the id.
    """
    return re.sub(r"[^\w ,()+=@~-]", _percent, pair_id)


def _percent(found: "re.Match[str]") -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def write_tar(samples: Iterable[Sample], columns: Columns) -> bytes:
    """Return a tar of ``KEY.cls`` (if there are classes), ``KEY.json`` and ``KEY.png|jpg|webp``.

    Owner, mode and time of the members are constant.

    Args:
        samples: records and images, with distinct pair ids.
        columns: what the shard holds beside ``FIELDS``.
    """
    buffer = io.BytesIO()
    told = (*FIELDS, *columns.credits)
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for row, image in samples:
            fields = {"json": json.dumps({name: row[name] for name in told}).encode()}
            fields[_ending(row)] = image
            if columns.classes:
                fields["cls"] = str(columns.classes.get(row["label"], NO_CLASS)).encode()
            for ending, data in sorted(fields.items()):
                member = tarfile.TarInfo(f"{key_of(row['pair_id'])}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_parquet(samples: Iterable[Sample], columns: Columns) -> bytes:
    """Return a Parquet file that declares images and classes to Hugging Face's ``datasets``.

    Args:
        samples: as for ``write_tar``.
        columns: as for ``write_tar``.
    """
    schema = parquet_schema(columns)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, use_dictionary=["content_uri"]) as writer:
        for group in _groups(samples):
            rows = [_parquet_row(row, image, columns) for row, image in group]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return buffer.getvalue()


def parquet_schema(columns: Columns) -> pa.Schema:
    """Return the columns of a Parquet shard with their ``huggingface`` metadata.

    Args:
        columns: as for ``write_parquet``; without classes there is no column ``label``.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, pa.DataType]] = [("image", image)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if columns.classes:
        fields.append(("label", pa.int64()))
        features["label"] = {"names": list(columns.names), "_type": "ClassLabel"}
    for name, (kind, feature) in {**VALUES, **dict.fromkeys(columns.credits, TEXT)}.items():
        fields.append((name, kind))
        features[name] = feature
    told = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": told})


def _parquet_row(row: Mapping[str, Any], image: bytes, columns: Columns) -> dict[str, Any]:
    path = f"{key_of(row['pair_id'])}.{_ending(row)}"
    return {
        **{name: row[name] for name in (*VALUES, *columns.credits)},
        "image": {"bytes": image, "path": path},
        "label": columns.classes.get(row["label"]),
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
