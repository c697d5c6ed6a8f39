"""Parquet files with pictures inside: what Hugging Face's ``datasets`` writes, and others."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.data.errors import RowError
from pipeline.data.make_manifest.sources.base import (
    Columns,
    Content,
    Source,
    SourceError,
    number_of,
    split_in,
)
from pipeline.data.make_manifest.sources.images import fitting
from pipeline.data.make_manifest.sources.layouts import Layout, layout_of
from pipeline.data.manifest.features import features_of
from pipeline.data.storage import file_parts, files, parquet_images, uris
from pipeline.data.storage.listing import File

ENDINGS = (".parquet",)

ROWS_AT_ONCE = 4096
"""Rows of which labels and the like are read together."""

BYTES_AT_ONCE = 64
"""Rows of which the pictures are read together, where some are missing and must be found."""

NO_IMAGES = ".parquet without pictures"


def open_tables(
    uri: str, options: files.StorageOptions, columns: Columns, form: str = "parquet"
) -> Source:
    """Return the rows of the Parquet files that ``uri`` stands for. No picture is read for it.

    A row's key is made of the file's key and the row's number, unless there is a column of keys.

    Args:
        uri: a folder, a file, a glob, or names with braces.
        options: fsspec options by scheme.
        columns: of the pictures, labels and keys.
        form: ``hugging-face`` if the files must say what their columns are.

    Raises:
        SourceError: a file cannot be read, or its columns leave open which one is meant.
    """
    listed: Counter[str] = Counter()
    # Sorted, so that the order of the listing does not decide whose list of classes counts.
    found = sorted(fitting(uri, options, ENDINGS, listed), key=lambda file: file.key)
    first = next(_laid_out(found, options, columns, Counter()), None)
    layout = first[1] if first else None
    if first and form == "hugging-face" and not features_of(first[2]):
        raise SourceError(
            f"{uris.redact(first[0].uri)}: has no features of Hugging Face's datasets (metadata "
            "'huggingface'); use --content-format parquet"
        )

    def contents(skipped: Counter[str]) -> Iterator[Content]:
        skipped.update(listed)
        for file, layout, _ in _laid_out(found, options, columns, skipped):
            try:
                with parquet_images.opened(file.uri, options) as table:
                    yield from _contents(file, table, layout, skipped)
            except RowError as error:
                raise SourceError(str(error)) from error

    own = {"split"} | ({"label", "label_id"} if layout and layout.label else set())
    own |= {*layout.credits} if layout else set()
    return Source(form, contents, frozenset(own), layout.names if layout else None)


def holds_images(uri: str, options: files.StorageOptions) -> bool:
    """Return whether a Parquet file has a column that may hold pictures, or lists of them.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        schema = file_parts.schema_of_parquet(uri, options)
    except RowError as error:
        raise SourceError(str(error)) from error
    kinds = [field.type for field in schema]
    return any(parquet_images.holds_images(k) or parquet_images.holds_lists(k) for k in kinds)


def _laid_out(
    found: Sequence[File],
    options: files.StorageOptions,
    columns: Columns,
    skipped: Counter[str],
) -> Iterator[tuple[File, Layout, pa.Schema]]:
    """Yield the files that hold pictures."""
    for file in found:
        try:
            schema = file_parts.schema_of_parquet(file.uri, options)
        except RowError as error:
            raise SourceError(str(error)) from error
        layout = layout_of(schema, columns, uris.redact(file.uri))
        if layout is None:
            skipped[NO_IMAGES] += 1
        else:
            yield file, layout, schema


def _contents(
    file: File, table: pq.ParquetFile, layout: Layout, skipped: Counter[str]
) -> Iterator[Content]:
    from_name = split_in(file.key)
    folder, slash, name = file.key.rpartition("/")
    stem = name.rpartition(".")[0] or name
    number = -1
    for group in range(table.num_row_groups):
        places = parquet_images.places(table, layout.image, group)
        found = file_parts.place_uris(places, file.uri, layout.image, group)
        rows = _rows(table, layout, group)
        for image, is_empty, (path, values) in zip(
            found, _empty_rows(table, layout.image, group), rows, strict=True
        ):
            number += 1
            if is_empty or not isinstance(image, str):
                skipped["without a picture"] += 1
                continue
            if "::" in image or uris.redact(image) != image:
                skipped["with '::', a password or a signature in the path"] += 1
                continue
            own = (path or "").rpartition("/")[2]
            bare = own or f"{stem}-{number}{ENDINGS[0]}"
            key = f"{file.key}/{number}/{own}" if own else f"{file.key}/{bare}"
            if layout.key:
                key = values[layout.key]
            if key is None:
                skipped["without a key"] += 1
                continue
            label, label_id = _class_of(values.get(layout.label or ""), layout.names)
            split = values[layout.split] if layout.split else from_name
            credits = {name: values[name] for name in layout.credits if values[name]}
            path = f"{folder}{slash}{bare}"
            yield Content(image, str(key), path, label, label_id, split, credits)


def _class_of(value: Any, names: Sequence[str] | None) -> tuple[str | None, int | None]:
    """Return name and number of a class.

    The number counts only if the file has no names, as another file may have another order.
    """
    number = number_of(value)
    if number is None:
        return (value.strip() or None, None) if isinstance(value, str) else (None, None)
    if names is not None and 0 <= number < len(names):
        return names[number], None
    return None, number


def _rows(
    table: pq.ParquetFile, layout: Layout, group: int
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the path beside each picture's bytes, if any, and the row's other columns."""
    kind = table.schema_arrow.field(layout.image).type
    named = (layout.label, layout.split, layout.key, *layout.credits)
    others = list({name: 0 for name in named if name})
    has_paths = types.is_struct(kind) and kind.get_field_index("path") >= 0
    wanted = [*others, f"{layout.image}.path"] if has_paths else others
    if not wanted:
        yield from itertools.repeat((None, {}), table.metadata.row_group(group).num_rows)
        return
    for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=wanted):
        for values in batch.to_pylist():
            image = values.pop(layout.image, None)
            path = image["path"] if image else None
            yield path if isinstance(path, str) else None, values


def _empty_rows(table: pq.ParquetFile, column: str, group: int) -> Iterator[bool]:
    """Yield for each row whether its picture is null: no bytes, and no path in their place.

    The statistics tell whether any may be; only then the pictures are read to find them.
    """
    rows = table.metadata.row_group(group)
    chunks = [rows.column(index) for index in range(rows.num_columns)]
    data = next((one for one in chunks if one.path_in_schema in (column, f"{column}.bytes")), None)
    known = data.statistics if data is not None and data.is_stats_set else None
    nulls = known.null_count if known and known.has_null_count else 0
    if not nulls or nulls == rows.num_rows:  # ``places`` knows the latter
        yield from itertools.repeat(False, rows.num_rows)
        return
    for batch in table.iter_batches(BYTES_AT_ONCE, row_groups=[group], columns=[column]):
        values = batch.column(0)
        if types.is_struct(values.type):
            parts = (values.field(index) for index in range(values.type.num_fields))
            held = [part.is_valid().to_pylist() for part in parts]
            yield from (
                not (is_valid and any(some))
                for is_valid, *some in zip(values.is_valid().to_pylist(), *held, strict=True)
            )
        else:
            yield from values.is_null().to_pylist()
