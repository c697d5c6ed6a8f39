"""Closing an output: add up its records and list its images for Hugging Face's imagefolder."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.ids import among, hash_ids
from pipeline.data.names import is_name
from pipeline.data.output.records import IMAGES, SECONDS, batches
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, uris
from pipeline.data.words import NAMED

TOGETHER = 16_384
"""Records that are added up together and form one row group of an image list.

Record files are small, and a Parquet file of thousands of small row groups is slow to open.
"""

METADATA = ("file_name", "pair_id", "label", "split", "content_uri", "style_uri",
            "total_loss", "content_loss", "style_loss")  # fmt: skip
"""Record columns that go into the image lists; ``split`` chooses the list."""

ERROR = ("error_class", "error_message", "manifest_row")
"""Record columns that describe a failed pair."""

MEANS = ("total_loss", "content_loss", "style_loss", "evaluations")
"""Record columns whose means over the ok pairs are in the summary."""


def close(
    output: str, options: files.StorageOptions, ids: npt.NDArray[np.int64]
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """Add up all records and write the lists of ok images, in one pass.

    The lists are ``metadata.parquet`` files, one in each split's folder, as Hugging Face's
    imagefolder reads them.

    In the summary, these are over all pairs in the output: ``images_by_split`` (pairs without a
    split are under ""), and ``lost_classes``, the labels of which every pair failed. These are over
    the manifest's pairs: counts, mean losses, seconds by stage, ``errors_by_class``, and
    ``first_errors``, the failed pairs of the manifest's first rows, and ``with_warnings``, the
    number of pairs with a damaged image that could be read. ``other_pairs`` counts pairs of
    other manifests, and of rows that have another id by now.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        ids: hashes of the ids of the manifest's pairs.

    Returns:
        The summary, and the hashes of all recorded ids.

    Raises:
        RowError: records cannot be read, or a list cannot be written.
    """
    known = np.sort(ids)
    counts, others, errors = Counter[str](), Counter[str](), Counter[str]()
    splits = Counter[str]()
    classes: dict[str, bool] = {}  # SPLIT/LABEL: whether there is an image
    sums = dict.fromkeys((*MEANS, *SECONDS), 0.0)
    size, with_warnings, measured = 0, 0, 0
    first_errors: list[dict[str, Any]] = []
    hashes = [np.empty(0, dtype=np.int64)]
    with _ImageLists() as lists:
        columns = ["status", *ERROR, "warnings", "bytes", *METADATA, *MEANS[3:], *SECONDS]
        for table in _tables(batches(output, options, columns)):
            hashes.append(hash_ids(table["pair_id"].to_pylist()))
            is_own = among(hashes[-1], known)
            own = table.filter(pa.array(is_own))
            counts.update(_counts(own["status"]))
            others.update(_counts(table["status"].filter(pa.array(~is_own))))
            failed = own.filter(pc.field("status") == "error")
            errors.update(_counts(failed["error_class"]))
            first_errors = _first(first_errors, failed)
            size += pc.sum(own["bytes"]).as_py() or 0
            with_warnings += len(own) - own["warnings"].null_count
            ok = own.filter(pc.field("status") == "ok")
            measured += len(ok) - ok["total_loss"].null_count  # originals have no losses
            for name in sums:
                sums[name] += pc.sum((ok if name in MEANS else own)[name]).as_py() or 0.0
            for group in table.group_by(["split", "label", "status"]).aggregate([]).to_pylist():
                parts = [part for part in (group["split"], group["label"]) if part is not None]
                if group["label"] is not None and all(map(is_name, parts)):
                    name = "/".join(parts)
                    classes[name] = classes.get(name, False) or group["status"] == "ok"
            made = table.filter(pc.field("status") == "ok")
            splits.update(_counts(pc.fill_null(made["split"], "")))
            lists.add(made)
    for split, data in lists.files.items():
        parts = [part for part in (IMAGES, split, "metadata.parquet") if part]
        files.write_bytes(uris.join(output, *parts), data.getvalue(), options)
    done = counts["ok"]
    summary = {
        "pairs": counts.total(),
        "ok": done,
        "error": counts["error"],
        "errors_by_class": dict(errors.most_common()),
        "first_errors": first_errors,
        "with_warnings": with_warnings,
        "other_pairs": {"ok": others["ok"], "error": others["error"]},
        "lost_classes": sorted(name for name, kept in classes.items() if not kept),
        "images_by_split": dict(sorted(splits.items())),
        "image_bytes": size,
        "mean": {name: sums[name] / measured if measured else None for name in MEANS},
        "seconds": {name.removesuffix("_seconds"): sums[name] for name in SECONDS},
    }
    return summary, np.concatenate(hashes)


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the same rows, at least ``TOGETHER`` in each table but the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= TOGETHER:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _first(named: list[dict[str, Any]], failed: pa.Table) -> list[dict[str, Any]]:
    """Return the first rows of the manifest among those already named and those in a table."""
    columns = ["manifest_row", "pair_id", "error_message"]
    some = failed.select(columns).sort_by("manifest_row").slice(0, NAMED).to_pylist()
    order = sorted(
        [*named, *some], key=lambda row: (row["manifest_row"] is None, row["manifest_row"] or 0)
    )
    return order[:NAMED]


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {found["values"]: found["counts"] for found in pc.value_counts(values).to_pylist()}


class _ImageLists:
    """A Parquet file in memory for each split; ``file_name`` is relative to the split's folder."""

    def __init__(self) -> None:
        self.files: dict[str | None, io.BytesIO] = {}
        self.writers: dict[str | None, pq.ParquetWriter] = {}

    def __enter__(self) -> "_ImageLists":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            writer.close()

    def add(self, table: pa.Table) -> None:
        schema = pa.schema([RECORD_SCHEMA.field(name) for name in METADATA if name != "split"])
        for split in table["split"].unique().to_pylist():
            if split not in self.writers:
                self.files[split] = io.BytesIO()
                self.writers[split] = pq.ParquetWriter(self.files[split], schema)
            of_split = pc.field("split").is_null() if split is None else pc.field("split") == split
            listed = table.filter(of_split).select(schema.names)
            folder = "/".join(part for part in (IMAGES, split) if part) + "/"
            names = pc.utf8_slice_codeunits(listed["file_name"], len(folder))
            listed = listed.set_column(0, schema.field("file_name"), names)
            self.writers[split].write_table(listed.cast(schema))
