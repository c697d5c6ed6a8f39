"""Ray Data's tasks in an audit: read files of records, check their images and the shards.

This is apart from ``audit``, which imports torch: that would cost each task's process seconds and
hundreds of MB.
"""

import functools
import hashlib
from typing import Any

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.images import codec
from pipeline.data.manifest import row_keys
from pipeline.data.names import is_name
from pipeline.data.output import records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import failures, files, tables, uris
from pipeline.engine.board import Board

READ = [
    *("pair_id", "status", "file_name", "width", "height", "bytes", "sha256"),
    *("error_message", *row_keys.COLUMNS),
]
"""Columns of the records that an audit compares with something, and why pairs failed."""

FOUND = pa.schema(
    [
        *(RECORD_SCHEMA.field(name) for name in READ[:7]),
        ("row_key", pa.int64()),
        ("fault", pa.string()),
        ("what", pa.string()),
    ]
)
"""Columns of what a task finds about a record. A file of records that cannot be read is one row.

``what`` describes the fault, or says why the pair failed.
"""

SHARD_FAULTS = pa.schema([("fault", pa.string()), ("what", pa.string())])
"""Columns of what a task finds about a shard."""

Found = list[dict[str, Any]]


def read_records(
    file_names: pa.Table, options: files.StorageOptions, base: str, board: Board
) -> pa.Table:
    """Read files of records and return a row of ``FOUND`` for each record, without its image.

    Args:
        file_names: URIs of the files, in the column ``file``.
        options: storage options, by scheme.
        base: directory to which the manifest's relative URIs are relative.
        board: learns which file is under way, since a damaged one may end the process.

    Raises:
        RuntimeError: file after file ended its processes and none was read.
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
    except Exception as error:  # a flipped byte can raise anything
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
    """Return the fault of a record that no job writes, and the wrong value; "" if it has none."""
    if record["status"] not in ("ok", "error"):
        return "unknown_status", record["status"]
    if record["file_name"] is not None and not records.is_image_name(record["file_name"]):
        return "foreign_path", record["file_name"]
    if record["split"] is not None and record["status"] == "ok" and not is_name(record["split"]):
        return "foreign_path", record["split"]
    return "", None


def check_images(
    table: pa.Table, output: str, options: files.StorageOptions, board: Board
) -> pa.Table:
    """Check the images of ok records, and return the rows with the faults found.

    Args:
        table: rows of ``FOUND``.
        output: URI of the output.
        options: storage options, by scheme.
        board: learns which image is under way, since one may end the process that decodes it.

    Raises:
        RuntimeError: image after image ended its processes and none was decoded.
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
    """Return the fault of an ok record's image, if any, and what more is known about it."""
    try:
        return _image_fault(row, output, options), ""
    except RowError as error:
        return "read_failed", str(error)


def check_shards(
    file_names: pa.Table, output: str, options: files.StorageOptions, board: Board
) -> pa.Table:
    """Read files and return those that differ from their index, as rows of ``SHARD_FAULTS``.

    Args:
        file_names: ``name``, ``bytes`` and ``sha256`` of each file, as its index has them.
        output: URI of the output.
        options: storage options, by scheme.
        board: learns which file is under way, since storage may never answer.

    Raises:
        RuntimeError: file after file ended its processes and none was read.
    """
    work = {
        file["name"]: functools.partial(_shard_fault, file, output, options)
        for file in file_names.to_pylist()
    }
    found = board.in_turn("reading", work, _unread_shard, "shard")
    board.add(sum(row is None for row in found.values()), 0)
    return pa.Table.from_pylist([row for row in found.values() if row], schema=SHARD_FAULTS)


def _unread_shard(name: str, fault: RowError) -> dict[str, Any] | None:
    return {"fault": "read_failed", "what": f"{name}: {fault}"}


def _shard_fault(
    file: dict[str, Any], output: str, options: files.StorageOptions
) -> dict[str, Any] | None:
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in files.read_chunks(uris.join(output, file["name"]), options):
            digest.update(chunk)
            size += len(chunk)
    except RowError as error:
        gone = error.error_class == "not_found"
        return {"fault": "missing_shard" if gone else "read_failed", "what": str(error)}
    if (size, digest.hexdigest()) != (file["bytes"], file["sha256"]):
        return {"fault": "wrong_shard", "what": file["name"]}
    return None


def _image_fault(record: dict[str, Any], output: str, options: files.StorageOptions) -> str | None:
    """Return the fault of an ok record's image; None if it has none.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: nothing is known about the image.
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
