"""Records: one row per pair of the manifest, ``ok`` and ``error`` alike, and their sums."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq

from pipeline.data.errors import RowError
from pipeline.data.ids import among, hash_ids
from pipeline.data.names import is_name
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, tables, uris
from pipeline.data.words import NAMED

IMAGES, RECORDS, CHECKPOINT = "images", "records", "__checkpoint__"


JOB, SUMMARY, REPORT = "job.json", "summary.json", "report.html"


ROWS_AT_ONCE = 1024
"""Records that ``iterate`` makes dictionaries of at once: each may hold thousands of losses."""


PENDING = ".pending.parquet"
"""Ray Data's mark in the checkpoint for a records file that is not known to be complete."""


class DamagedError(RowError):
    """A file that an earlier run wrote is damaged. The message names it, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("read_failed", message)


def committed_files(output: str, options: files.StorageOptions) -> list[str]:
    """The record files that are complete; Ray Data deletes the others at the next run's start."""
    marks = files.list_files(uris.join(output, CHECKPOINT), options, PENDING)
    unfinished = tuple(mark.rpartition("/")[2].removesuffix(PENDING) for mark in marks)
    file_names = files.list_files(uris.join(output, RECORDS), options, ".parquet")
    return [file for file in file_names if not file.rpartition("/")[2].startswith(unfinished)]


def records_dataset(output: str, options: files.StorageOptions) -> pyarrow.dataset.Dataset | None:
    """All records of an output, with all columns of ``RECORD_SCHEMA``, which earlier versions did
    not write; None when there are none yet."""
    file_names = committed_files(output, options)
    if not file_names:
        return None
    fs, _ = files.arrow_filesystem(output, options)
    paths = [files.arrow_filesystem(file, options)[1] for file in file_names]
    dataset = pyarrow.dataset.dataset(paths, filesystem=fs, format="parquet")
    tables.refuse_pickles(dataset.schema, uris.redact(uris.join(output, RECORDS)))
    lacking = [field for field in RECORD_SCHEMA if field.name not in dataset.schema.names]
    return dataset.replace_schema(pa.schema([*dataset.schema, *lacking]))


def iterate(
    output: str, options: files.StorageOptions, columns: list[str], status: str | None = None
) -> Iterator[dict[str, Any]]:
    """Records as dictionaries, a batch in memory at a time."""
    for batch in batches(output, options, columns, status):
        for start in range(0, len(batch), ROWS_AT_ONCE):
            yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()


def batches(
    output: str, options: files.StorageOptions, columns: list[str], status: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of all records, or of those with a status, as they lie in their files.

    Raises:
        DamagedError: a file of them is damaged.
        RowError: ``read_failed``: the storage failed.
    """
    chosen = None if status is None else pyarrow.dataset.field("status") == status
    try:
        dataset = records_dataset(output, options)
        if dataset is not None:
            # Kept, the footers of thousands of small files outweigh their rows.
            yield from dataset.to_batches(columns=columns, filter=chosen, cache_metadata=False)
    except (pa.ArrowException, OSError) as error:
        for file in committed_files(output, options):  # Arrow does not always name it
            read_file(file, options)
        shown = uris.redact(uris.join(output, RECORDS))
        text = f"{shown}: cannot be read: {files.reason(error)}"
        raise RowError("read_failed", text) from error


def read_file(file: str, options: files.StorageOptions) -> pa.Table:
    """A Parquet file of records, or of the checkpoint, with a ``pair_id`` in each row.

    Raises:
        DamagedError: it is damaged.
        RowError: as ``storage.read_bytes``.
    """
    try:
        table = tables.read_table(file, options)
        table["pair_id"]
    except RowError:
        raise
    except Exception as error:  # a flipped byte shows in many ways
        raise DamagedError(
            f"{uris.redact(file)}: is damaged ({files.reason(error)}); delete it, and run the "
            "job again: it does anew what has no record",
        ) from error
    return table


def is_image_name(file_name: str) -> bool:
    """Whether it is one that a job gives: images/[SPLIT/][LABEL/]NAME.png, jpg or webp.

    Any other may lead out of the output.
    """
    folder, *folders, last = file_name.split("/")
    name, _, ending = last.rpartition(".")
    inside = folder == IMAGES and len(folders) <= 2 and ending in ("png", "jpg", "webp")
    return inside and all(map(is_name, (*folders, name)))


TOGETHER = 16_384
"""Records that are looked at together, and lie together in a list of images. Their files are small,
and a Parquet file of thousands of small parts is slow to open."""


METADATA = ("file_name", "pair_id", "label", "split", "content_uri", "style_uri",
            "total_loss", "content_loss", "style_loss")  # fmt: skip


ERROR = ("error_class", "error_message", "manifest_row")


MEANS = ("total_loss", "content_loss", "style_loss", "evaluations")


SECONDS = ("load_seconds", "optimize_seconds", "store_seconds")


def close(
    output: str, options: files.StorageOptions, ids: npt.NDArray[np.int64]
) -> tuple[dict[str, Any], npt.NDArray[np.int64]]:
    """One pass over all records: add them up, and list the ok images beside themselves.

    The lists are ``metadata.parquet`` files of each split, as Hugging Face's imagefolder wants
    them; they, the ``images_by_split`` (of pairs without one: by "") and the ``lost_classes``, of
    which no image was made, are of all pairs that lie in the output, as its folders are. Counts,
    mean losses, seconds by stage and errors by class are of the manifest's pairs; ``other_pairs``
    counts those of other manifests, and of rows that have another id by now. ``first_errors`` are
    those of the manifest's first rows that failed; ``with_warnings`` counts the manifest's pairs of
    damaged pictures.

    Args:
        ids: hashes of the ids of the manifest's pairs.

    Returns:
        The sums, and the hashes of all ids.
    """
    known = np.sort(ids)
    counts, others, errors = Counter[str](), Counter[str](), Counter[str]()
    splits = Counter[str]()
    classes: dict[str, bool] = {}  # SPLIT/LABEL: whether there is an image
    sums = dict.fromkeys((*MEANS, *SECONDS), 0.0)
    size, with_warnings = 0, 0
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
            for name in sums:
                sums[name] += pc.sum(own[name]).as_py() or 0.0
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
        "mean": {name: sums[name] / done if done else None for name in MEANS},
        "seconds": {name.removesuffix("_seconds"): sums[name] for name in SECONDS},
    }
    return summary, np.concatenate(hashes)


def _tables(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, at least ``TOGETHER`` in each table but the last."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= TOGETHER:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _first(named: list[dict[str, Any]], failed: pa.Table) -> list[dict[str, Any]]:
    """The first rows of the manifest among those named before and those of a table."""
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


def write_json(uri: str, value: Any, options: files.StorageOptions) -> None:
    """Indented JSON, replaced as a whole."""
    text = json.dumps(value, indent=2, sort_keys=False, default=str) + "\n"
    files.write_bytes(uri, text.encode(), options)
