"""Rows of a Parquet manifest. Pictures inside it are not read: rows get URIs of their places."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from pipeline.data.manifest import columns
from pipeline.data.manifest.sources import ManifestError, Slice
from pipeline.data.schemas import OWN_COLUMNS
from pipeline.data.storage import failures, file_parts, parquet_images, uris, web
from pipeline.data.words import printable


class ParquetRows:
    """Rows of one or more Parquet files.

    Args:
        dataset: the files.
        uri: of the file or folder.
        path: the same in the data set's file system.
        images: the column of the pictures for ``content_uri``, ``style_uri`` or both; empty if
            the manifest has columns of URIs.
        left_out: columns that are not read.
    """

    def __init__(
        self,
        dataset: pyarrow.dataset.Dataset,
        uri: str,
        path: str,
        images: Mapping[str, str],
        left_out: Sequence[str],
    ) -> None:
        self._dataset, self._uri, self._path, self._images = dataset, uri, path, images
        passed = {*images.values(), *left_out}
        self._read = [name for name in dataset.schema.names if name not in passed]

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        named = [pa.field(name, pa.string()) for name in self._images]
        whole = self._dataset.schema
        return pa.schema([*map(whole.field, self._read), *named], whole.metadata)

    def count(self) -> int:
        """Return the number of rows, from the files' footers."""
        return int(self._dataset.count_rows())

    def where(self, numbers: Sequence[int]) -> str:
        """Return rows in words."""
        return f"rows {' and '.join(map(str, sorted(numbers)))}"

    def slices(self, size: int) -> Iterator[Slice]:
        """Yield the rows in order.

        Raises:
            ManifestError: a file cannot be read.
        """
        try:
            for rows in self._with_images(size) if self._images else self._plain(size):
                yield Slice(rows)
        except Exception as error:  # those of file systems are of many kinds
            raise ManifestError(
                f"manifest {uris.redact(self._uri)}: {self._unreadable(size)}cannot be read: "
                f"{failures.reason_at(self._uri, error)}; every file of it must be sound Parquet"
            ) from error

    def _plain(self, size: int) -> Iterator[list[dict[str, Any]]]:
        return map(_rows, self._dataset.to_batches(batch_size=size))

    def _with_images(self, size: int) -> Iterator[list[dict[str, Any]]]:
        for part in self._dataset.get_fragments():
            name = self._name(part.path)
            with (
                part.filesystem.open_input_file(part.path) as opened,
                pq.ParquetFile(opened, metadata=part.metadata) as file,
            ):
                for piece in part.split_by_row_group():
                    (group,) = piece.row_groups
                    places = {
                        column: file_parts.place_uris(
                            parquet_images.places(file, image, group.id), name, image, group.id
                        )
                        for column, image in self._images.items()
                    }
                    others = self._others(piece, group.num_rows, size)
                    while rows := list(itertools.islice(others, size)):
                        for column, found in places.items():
                            for row in rows:
                                row[column] = next(found)
                        yield rows

    def _others(self, piece: Any, count: int, size: int) -> Iterator[dict[str, Any]]:
        """Yield the other columns of a row group, row by row."""
        if not self._read:
            yield from ({} for _ in range(count))
            return
        schema = self._dataset.schema
        for batch in piece.to_batches(schema=schema, columns=self._read, batch_size=size):
            yield from _rows(batch)

    def _name(self, path: str) -> str:
        """Return a file's URI as a row would give it: relative, so that a folder may be moved."""
        if uris.scheme_of(self._uri) in web.SCHEMES:  # one file, and its query may be needed
            return self._uri
        if path == self._path:
            return path.rpartition("/")[2]
        return path.removeprefix(f"{self._path.rstrip('/')}/")

    def _unreadable(self, size: int) -> str:
        """Name the first file and column that cannot be read; empty if none is found."""
        schema = self._dataset.schema
        for part in self._dataset.get_fragments():
            for name in self._read:
                try:
                    for batch in part.to_batches(schema=schema, columns=[name], batch_size=size):
                        _values(batch, name)
                except Exception:  # this is the column to name
                    column, file = printable(uris.redact(name)), uris.redact(part.path)
                    return f"column '{column}' of {printable(file.rpartition('/')[2])} "
        return ""


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    names = batch.schema.names
    values = [_values(batch, name) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """Return a column's values; dates and times of carried columns as numbers."""
    column, kind = batch[name], columns.as_numbers(batch.schema).field(name).type
    stays = name in OWN_COLUMNS or kind == column.type
    found: list[Any] = (column if stays else column.cast(kind)).to_pylist()
    return found
