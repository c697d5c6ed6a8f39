"""Records: one row per pair of the manifest, ``ok`` and ``error`` alike, and their sums."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset

from pipeline.data import storage

RECORD_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("manifest_row", pa.int64()),
        ("status", pa.string()),  # ok | error
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("file_name", pa.string()),  # relative to the output, images/...
        ("content_uri", pa.string()),
        ("style_uri", pa.list_(pa.string())),
        ("style_blend", pa.list_(pa.float64())),
        ("label", pa.string()),
        ("split", pa.string()),
        ("width", pa.int32()),  # px
        ("height", pa.int32()),  # px
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("total_loss", pa.float64()),
        ("content_loss", pa.float64()),
        ("style_loss", pa.float64()),
        ("tv_loss", pa.float64()),
        ("layer_losses", pa.map_(pa.string(), pa.float64())),  # unweighted
        ("loss_history", pa.list_(pa.float32())),  # total loss after each evaluation
        ("iterations", pa.int32()),
        ("evaluations", pa.int32()),
        ("stop_reason", pa.string()),
        ("load_seconds", pa.float64()),
        ("optimize_seconds", pa.float64()),  # of the batch, shared equally by its pairs
        ("store_seconds", pa.float64()),
        ("batch_size", pa.int32()),
        ("settings", pa.string()),  # JSON: every setting that changes pixels
        ("weights", pa.string()),
        ("weights_digest", pa.string()),
        ("versions", pa.string()),  # JSON
        ("device", pa.string()),
        ("finished_at", pa.timestamp("ms", tz="UTC")),
    ]
)

IMAGES, RECORDS, CHECKPOINT = "images", "records", "__checkpoint__"

PENDING = ".pending.parquet"
"""Ray Data's mark in the checkpoint for a records file that is not known to be complete."""


def committed_files(output: str, options: storage.StorageOptions) -> list[str]:
    """The record files that are complete; Ray Data deletes the others at the next run's start."""
    marks = storage.list_files(storage.join(output, CHECKPOINT), options, PENDING)
    unfinished = tuple(mark.rpartition("/")[2].removesuffix(PENDING) for mark in marks)
    files = storage.list_files(storage.join(output, RECORDS), options, ".parquet")
    return [file for file in files if not file.rpartition("/")[2].startswith(unfinished)]


def record_ids(output: str, options: storage.StorageOptions) -> Iterator[str]:
    """The pair_id of every record."""
    for row in iterate(output, options, ["pair_id"]):
        yield row["pair_id"]


def records_dataset(output: str, options: storage.StorageOptions) -> pyarrow.dataset.Dataset | None:
    """All records of an output; None when there are none yet."""
    files = committed_files(output, options)
    if not files:
        return None
    fs, _ = storage.arrow_filesystem(output, options)
    paths = [storage.arrow_filesystem(file, options)[1] for file in files]
    return pyarrow.dataset.dataset(paths, filesystem=fs, format="parquet")


def iterate(
    output: str, options: storage.StorageOptions, columns: list[str], status: str | None = None
) -> Iterator[dict[str, Any]]:
    """Records as dictionaries, a batch in memory at a time."""
    dataset = records_dataset(output, options)
    if dataset is None:
        return
    chosen = None if status is None else pyarrow.dataset.field("status") == status
    for batch in dataset.to_batches(columns=columns, filter=chosen):
        yield from batch.to_pylist()


def summarize(output: str, options: storage.StorageOptions) -> dict[str, Any]:
    """Counts, mean losses, seconds by stage and errors by class over all records."""
    status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    means = ("total_loss", "content_loss", "style_loss", "evaluations")
    stages = ("load_seconds", "optimize_seconds", "store_seconds")
    sums = dict.fromkeys((*means, *stages), 0.0)
    size = 0
    columns = ["status", "error_class", "bytes", *means, *stages]
    for record in iterate(output, options, columns):
        status[record["status"]] += 1
        if record["status"] == "error":
            errors[record["error_class"]] += 1
        size += record["bytes"] or 0
        for name in (*means, *stages):
            sums[name] += record[name] or 0.0
    done = status["ok"]
    return {
        "pairs": status.total(),
        "ok": done,
        "error": status["error"],
        "errors_by_class": dict(errors.most_common()),
        "image_bytes": size,
        "mean": {name: sums[name] / done if done else None for name in means},
        "seconds": {name.removesuffix("_seconds"): sums[name] for name in stages},
    }


def write_image_metadata(output: str, options: storage.StorageOptions) -> None:
    """``metadata.parquet`` beside the ok images of each split, as Hugging Face's imagefolder wants.

    ``file_name`` is relative to the split's directory. Failed rows have no image and stay out.
    """
    columns = ["file_name", "pair_id", "label", "split", "content_uri", "style_uri"]
    columns += ["total_loss", "content_loss", "style_loss"]
    by_split: dict[str | None, list[dict[str, Any]]] = {}
    for record in iterate(output, options, columns, status="ok"):
        split = record.pop("split")
        folder = "/".join(part for part in (IMAGES, split) if part)
        record["file_name"] = record["file_name"].removeprefix(f"{folder}/")
        by_split.setdefault(split, []).append(record)
    for split, rows in by_split.items():
        parts = [part for part in (IMAGES, split, "metadata.parquet") if part]
        storage.write_table(storage.join(output, *parts), pa.Table.from_pylist(rows), options)


def write_json(uri: str, value: Any, options: storage.StorageOptions) -> None:
    """Indented JSON, replaced as a whole."""
    text = json.dumps(value, indent=2, sort_keys=False, default=str) + "\n"
    storage.write_bytes(uri, text.encode(), options)
