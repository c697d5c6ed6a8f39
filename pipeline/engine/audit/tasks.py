"""What Ray Data's tasks do in an audit: read files of records, look at their images.

Apart from ``audit``, which brings in torch: that would cost each task's process seconds and
hundreds of MB.
"""

import functools
import hashlib
from typing import Any

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.images import codec
from pipeline.data.manifest import row_keys
from pipeline.data.output import records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import failures, files, tables, uris
from pipeline.engine.board import Board

READ = [
    *("pair_id", "status", "file_name", "width", "height", "bytes", "sha256"),
    *("error_message", *row_keys.COLUMNS),
]
"""Columns of the records that are compared with something, and why pairs failed."""

FOUND = pa.schema(
    [
        *(RECORD_SCHEMA.field(name) for name in READ[:7]),
        ("row_key", pa.int64()),
        ("fault", pa.string()),
        ("what", pa.string()),
    ]
)
"""What a task says about a record; a file of records that cannot be read is a row of its own.
``what`` describes the fault, or says why the pair failed."""


SHARD_FAULTS = pa.schema([("fault", pa.string()), ("what", pa.string())])


Found = list[dict[str, Any]]


def read_records(
    file_names: pa.Table, options: files.StorageOptions, base: str, board: Board
) -> pa.Table:
    """Files of records -> a row of ``FOUND`` for each record, images not yet looked at.

    ``board`` learns which file is under way: damaged ones may end the process.
    """
    work = {
        file: functools.partial(_records_in, file, options, base)
        for file in file_names["file"].to_pylist()
    }
    found = board.in_turn("reading", work, _unreadable, "file")
    board.add(len(work), 0)
    rows = [row for file in work for row in found[file]]
    return pa.Table.from_pylist(rows, schema=FOUND)


def _records_in(file: str, options: files.StorageOptions, base: str) -> Found:
    try:
        return _read_file(file, options, base)
    except RowError as error:
        return [{"fault": "read_failed", "what": str(error)}]
    except Exception as error:  # a flipped byte shows in many ways
        return _unreadable(file, error)


def _unreadable(file: str, error: Exception) -> Found:
    reason = str(error) if isinstance(error, RowError) else failures.reason(error)
    return [{"fault": "unreadable_records", "what": f"{uris.redact(file)}: {reason}"}]


def _read_file(file: str, options: files.StorageOptions, base: str) -> Found:
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in READ])
    table = tables.read_table(file, options).select(READ).cast(schema)
    found: Found = table.to_pylist()
    for record in found:
        if record["pair_id"] is None:
            raise ValueError("a record has no pair_id")
        record["what"] = record["error_message"]
        fault, value = _misfit(record)
        if fault:
            record["fault"] = fault
            record["what"] = f"{record['pair_id']}: {value!r} in {uris.redact(file)}"
        record["row_key"] = row_keys.key_of_record(record, base)
    return found


def _misfit(record: dict[str, Any]) -> tuple[str, Any]:
    """The fault of a record that no job writes, and the value that shows it; empty if none."""
    if record["status"] not in ("ok", "error"):
        return "unknown_status", record["status"]
    if record["file_name"] is not None and not records.is_image_name(record["file_name"]):
        return "foreign_path", record["file_name"]
    return "", None


def check_images(
    table: pa.Table, output: str, options: files.StorageOptions, board: Board
) -> pa.Table:
    """Rows of ``FOUND`` with the faults of the ok records' images.

    ``board`` learns which image is under way: it may end the process that decodes it.
    """
    rows = table.to_pylist()
    sound = {
        f"{place}: {row['pair_id']}: {row['file_name']}": row
        for place, row in enumerate(rows)
        if row["fault"] is None and row["status"] == "ok"
    }
    work = {
        key: functools.partial(_check_image, row, output, options) for key, row in sound.items()
    }
    done = board.in_turn("opening", work, _unopened, "image")
    board.add(sum(fault is None for fault, _ in done.values()), 0)
    for key, (fault, more) in done.items():
        row = sound[key]
        name = f"{row['pair_id']}: {row['file_name']}"
        row |= {"fault": fault, "what": f"{name}: {more}" if more else name}
    return pa.Table.from_pylist(rows, schema=FOUND)


def _unopened(_: str, fault: RowError) -> tuple[str | None, str]:
    return "unreadable_image", str(fault)


def _check_image(
    row: dict[str, Any], output: str, options: files.StorageOptions
) -> tuple[str | None, str]:
    """The fault of an ok record's image, and what more is known about it."""
    try:
        return _image_fault(row, output, options), ""
    except RowError as error:
        return "read_failed", str(error)


def check_shards(file_names: pa.Table, output: str, options: files.StorageOptions) -> pa.Table:
    """Files with the ``bytes`` and ``sha256`` that an index states -> those with a fault."""
    rows: list[dict[str, Any]] = []
    for file in file_names.to_pylist():
        digest, size = hashlib.sha256(), 0
        try:
            for chunk in files.read_chunks(uris.join(output, file["name"]), options):
                digest.update(chunk)
                size += len(chunk)
        except RowError as error:
            gone = error.error_class == "not_found"
            rows.append({"fault": "missing_shard" if gone else "read_failed", "what": str(error)})
            continue
        if (size, digest.hexdigest()) != (file["bytes"], file["sha256"]):
            rows.append({"fault": "wrong_shard", "what": file["name"]})
    return pa.Table.from_pylist(rows, schema=SHARD_FAULTS)


def _image_fault(record: dict[str, Any], output: str, options: files.StorageOptions) -> str | None:
    """What is wrong with an ok record's image.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: then nothing is known about the image.
    """
    name = record["file_name"]
    if name is None:
        return "missing_image"
    try:
        data = files.read_bytes(uris.join(output, name), options, record["bytes"] or 0)
    except RowError as error:
        other = {"not_found": "missing_image", "file_too_large": "wrong_bytes"}
        if error.error_class in other:
            return other[error.error_class]
        raise
    if len(data) != record["bytes"] or codec.sha256(data) != record["sha256"]:
        return "wrong_bytes"
    width, height = record["width"] or 0, record["height"] or 0
    try:
        image = codec.decode(data, name, width * height)
    except RowError as error:
        sized = error.error_class in ("image_too_large", "image_too_small")
        return "wrong_size" if sized else "unreadable_image"
    return None if image.size == (width, height) else "wrong_size"
