"""Pictures in columns of Parquet files: where they are, and the bytes of one of them.

A picture's column is binary, or a struct with the fields ``bytes`` and ``path`` as Hugging Face's
``Image`` writes it, or a list of either. A struct without bytes stands for the file at its path.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.data.errors import RowError
from pipeline.data.storage import filesystems, local
from pipeline.data.storage.failures import read_error
from pipeline.data.storage.filesystems import StorageOptions, filesystem
from pipeline.data.storage.uris import redact, resolve, respelt

MOST_GROUP = 2**30
"""Bytes of a column in a row group, uncompressed, above which its pictures are not read."""

KEPT = 2**29
"""Bytes of row groups that a process keeps. The last one read is kept whatever its size."""

LISTS_AT_ONCE = 64
"""Rows of a list column that are read together, to learn how long the lists are."""


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold pictures, one in each row."""
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def holds_lists(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold lists of pictures."""
    return _is_list(kind) and holds_images(kind.value_type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


class Place(NamedTuple):
    """What ``places`` yields for a picture: the bytes in a row, or a file's path.

    Attributes:
        row: number in the row group.
        item: number in the row's list; None if the column holds no lists.
        path: of the file in place of bytes, relative to the table's folder; None for bytes.
    """

    row: int
    item: int | None = None
    path: str | None = None


def places(
    file: pq.ParquetFile, column: str, group: int
) -> Iterator[Place | list[Place | None] | None]:
    """Yield where the pictures of a row group are, row by row; None for null.

    The bytes are not read, but for lists of plain binary, whose lengths cannot be known otherwise.
    Whether a row has bytes is told by the file's statistics if it is so for all rows. If it is not,
    ``Place`` leads to the row, and ``read`` finds out.
    """
    chunks = _chunks(file.metadata, column, group)
    count = file.metadata.row_group(group).num_rows
    if not chunks:  # the file lacks the column
        yield from (None for _ in range(count))
        return
    kind = file.schema_arrow.field(column).type
    is_list = _is_list(kind)
    is_struct = types.is_struct(kind.value_type if is_list else kind)
    path = next((name for name in chunks if is_struct and name.endswith(".path")), None)
    data = next((name for name in chunks if not is_struct or name.endswith(".bytes")), None)
    without_bytes = data is None or _is_null(chunks[data])
    if is_list:
        read = path or column
        for first, lists in _batches(file, group, read, LISTS_AT_ONCE):
            yield from _list_places(lists, first, path if without_bytes else None, without_bytes)
    elif not without_bytes:
        yield from map(Place, range(count))
    elif path:
        for first, rows in _batches(file, group, path, 4096):
            for row, value in enumerate(rows.to_pylist(), first):
                yield Place(row, None, value["path"]) if value and value["path"] else None
    else:
        yield from (None for _ in range(count))


def _list_places(
    lists: pa.Array, first: int, path: str | None, without_bytes: bool
) -> Iterator[list[Place | None] | None]:
    lengths = pc.list_value_length(lists).to_pylist()
    paths = lists.to_pylist() if path else [None] * len(lists)
    for row, (length, values) in enumerate(zip(lengths, paths, strict=True), first):
        if length is None:
            yield None
        elif not without_bytes:
            yield [Place(row, item) for item in range(length)]
        else:
            named = [value["path"] if value else None for value in values or [None] * length]
            yield [Place(row, item, name) if name else None for item, name in enumerate(named)]


def _batches(
    file: pq.ParquetFile, group: int, column: str, size: int
) -> Iterator[tuple[int, pa.Array]]:
    """Yield the number of the first row, and the column, of some rows at a time."""
    first = 0
    for batch in file.iter_batches(size, row_groups=[group], columns=[column]):
        yield first, batch.column(0)
        first += len(batch)


def _chunks(metadata: Any, column: str, group: int) -> dict[str, Any]:
    """Return the column chunks of a column, by their paths: ``image.bytes``, ``image.path``."""
    found = metadata.row_group(group)
    chunks = (found.column(index) for index in range(found.num_columns))
    return {
        chunk.path_in_schema: chunk
        for chunk in chunks
        if chunk.path_in_schema == column or chunk.path_in_schema.startswith(f"{column}.")
    }


def _is_null(chunk: Any) -> bool:
    """Return whether the statistics say that all values are null."""
    known = chunk.statistics if chunk.is_stats_set else None
    return bool(known and known.has_null_count and known.null_count == chunk.num_values)


@contextmanager
def opened(uri: str, options: StorageOptions) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; errors inside the block become errors of the file.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        local.refuse_special(uri, fs, path)
        with fs.open(path, "rb", cache_type="none") as file, pq.ParquetFile(file) as table:
            yield table
    except RowError:
        raise
    except Exception as error:  # each file system raises its own types
        raise read_error(uri, error) from error


_Key = tuple[str, str | None, str, int]

_kept: OrderedDict[_Key, pa.ChunkedArray] = OrderedDict()
_lock = threading.Lock()


def read(
    uri: str, column: str, group: int, row: int, item: int | None, options: StorageOptions
) -> bytes | str:
    """Return a picture's bytes, or the URI of its file if the row has only a path.

    Rows come in order, so the column of the row group is kept for the next ones.

    Args:
        uri: the Parquet file.
        column: its column.
        group: number of the row group.
        row: number in the row group.
        item: number in the row's list, or None.
        options: storage options by scheme.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``; ``file_too_large``: the
            column has more than ``MOST_GROUP`` bytes in the row group; ``bad_row``: the row holds
            no picture.
    """
    key = (uri, filesystems.version(uri, options), column, group)
    with _lock:
        values = _kept.pop(key, None)
        if values is None:
            while sum(kept.nbytes for kept in _kept.values()) > KEPT:
                _kept.popitem(last=False)
            values = _column(uri, column, group, options)
        _kept[key] = values
        while len(_kept) > 1 and sum(kept.nbytes for kept in _kept.values()) > KEPT:
            _kept.popitem(last=False)
    found = values[row] if row < len(values) else None
    if found is not None and item is not None:
        inside = found.values
        found = inside[item] if inside is not None and item < len(inside) else None
    if found is None:
        raise RowError(
            "not_found",
            f"{redact(uri)}: has no such row; it was replaced since the manifest was made",
        )
    value = found.as_py()
    path = None
    if isinstance(value, dict):
        value, path = value["bytes"], value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(path, str) and path:
        return beside(uri, path)
    raise RowError("bad_row", f"{redact(uri)}: the picture is null: there are no bytes and no path")


def _column(uri: str, column: str, group: int, options: StorageOptions) -> pa.ChunkedArray:
    """Read a picture's column of one row group."""
    with opened(uri, options) as table:
        kind = pa.null()
        if column in table.schema_arrow.names:
            kind = table.schema_arrow.field(column).type
        # Checked before it is read: values of types defined in Python would be unpickled.
        if group >= table.num_row_groups or not (holds_images(kind) or holds_lists(kind)):
            raise RowError(
                "not_found",
                f"{redact(uri)}: has no pictures in column {column!r} of row group {group}; it was "
                "replaced since the manifest was made",
            )
        chunks = _chunks(table.metadata, column, group).values()
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        if size > MOST_GROUP:
            raise RowError(
                "file_too_large",
                f"{redact(uri)}: column {column!r} has {size} bytes in row group {group}, and at "
                f"most {MOST_GROUP} are read; write the file again with row_group_size=100",
            )
        return table.read_row_group(group, columns=[column], use_threads=False).column(0)


def beside(uri: str, path: str) -> str:
    """Return the URI of a file that a row of the Parquet file ``uri`` names by its path."""
    folder = uri.rpartition("/")[0]
    return resolve(path, folder) if folder else respelt(path)
