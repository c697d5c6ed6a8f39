"""Parquet files with pictures inside: what Hugging Face's ``datasets`` writes, and others."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from pipeline.data.manifest.features import class_names, features_of
from pipeline.data.manifest.lineage import CREDITS
from pipeline.data.storage import file_parts, files, parquet_images, uris
from pipeline.data.storage.listing import File

ENDINGS = (".parquet",)

IMAGE_COLUMNS = ("image", "img", "content_image", "content", "picture", "jpg", "png")
"""Names that decide if several columns hold pictures."""

ROWS_AT_ONCE = 4096
"""Rows of which labels and the like are read together."""

BYTES_AT_ONCE = 64
"""Rows of which the pictures are read together, where some are missing and must be found."""

NO_IMAGES = ".parquet without pictures"


@dataclass(frozen=True)
class _Layout:
    """Which columns of a file hold what.

    Attributes:
        image: the pictures.
        label: the class, by name or by number; None if there is none.
        split: the split, if there is a column of this name.
        key: of the pictures' names, if it was asked for.
        credits: columns of licences and authors.
        names: of the classes by id, from the features of ``datasets``.
    """

    image: str
    label: str | None
    split: str | None
    key: str | None
    credits: tuple[str, ...]
    names: tuple[str, ...] | None


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
) -> Iterator[tuple[File, _Layout, pa.Schema]]:
    """Yield the files that hold pictures."""
    for file in found:
        try:
            schema = file_parts.schema_of_parquet(file.uri, options)
        except RowError as error:
            raise SourceError(str(error)) from error
        layout = _layout(schema, columns, uris.redact(file.uri))
        if layout is None:
            skipped[NO_IMAGES] += 1
        else:
            yield file, layout, schema


def _layout(schema: pa.Schema, columns: Columns, shown: str) -> _Layout | None:
    """Return a file's layout; None if it holds no pictures.

    Raises:
        SourceError: a column is missing, or several could be meant.
    """
    images = [field.name for field in schema if parquet_images.holds_images(field.type)]
    lists = [field.name for field in schema if parquet_images.holds_lists(field.type)]
    if columns.image in lists or (lists and not images):
        name = columns.image if columns.image in lists else lists[0]
        raise SourceError(
            f"{shown}: column {name!r} holds lists of pictures, and a content is one picture; "
            "write a row for each of them"
        )
    if not images:
        return None
    image = _image_column(images, columns.image, shown)
    for option, name in (("label", columns.label), ("key", columns.key)):
        if name and name not in schema.names:
            raise SourceError(
                f"{shown}: has no column {name!r} (--{option}-column); its columns: "
                f"{', '.join(schema.names)}"
            )
    features = features_of(schema)
    label = columns.label or _label_column(schema, features, shown)
    if label and not _is_plain(schema.field(label).type):
        raise SourceError(f"{shown}: column {label!r} holds neither names nor numbers of classes")
    key = columns.key or None
    if key and not _is_plain(schema.field(key).type):
        raise SourceError(f"{shown}: column {key!r} holds neither names nor numbers of pictures")
    has_splits = "split" in schema.names and _is_text(schema.field("split").type)
    return _Layout(
        image,
        label,
        "split" if has_splits else None,
        key,
        tuple(n for n in CREDITS if n in schema.names and _is_text(schema.field(n).type)),
        class_names(features.get(label or "", {})),
    )


def _image_column(images: list[str], wanted: str, shown: str) -> str:
    if wanted:
        if wanted not in images:
            raise SourceError(
                f"{shown}: has no pictures in a column {wanted!r} (--image-column); columns with "
                f"pictures: {', '.join(images)}"
            )
        return wanted
    usual = [name for name in IMAGE_COLUMNS if name in images]
    if len(images) > 1 and not usual:
        raise SourceError(
            f"{shown}: several columns may hold pictures ({', '.join(images)}); choose one with "
            "--image-column"
        )
    return usual[0] if usual else images[0]


def _label_column(
    schema: pa.Schema, features: Mapping[str, Mapping[str, Any]], shown: str
) -> str | None:
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if "label" in classes or (not classes and "label" in schema.names):
        return "label" if _is_plain(schema.field("label").type) else None
    if len(classes) > 1:
        raise SourceError(
            f"{shown}: has several columns of classes ({', '.join(classes)}); choose one with "
            "--label-column"
        )
    return classes[0] if classes else None


def _is_plain(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(_is_text(kind) or types.is_integer(value) or types.is_floating(value))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    )


def _contents(
    file: File, table: pq.ParquetFile, layout: _Layout, skipped: Counter[str]
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
    table: pq.ParquetFile, layout: _Layout, group: int
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
