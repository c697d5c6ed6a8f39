"""CSV, TSV and JSON lines files that list images by their paths or URIs."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.data.make_manifest.sources.base import (
    Columns,
    Content,
    Source,
    SourceError,
    number_of,
)
from pipeline.data.make_manifest.sources.images import ending_of, fitting
from pipeline.data.manifest.lineage import CREDITS
from pipeline.data.manifest.sources import ManifestError
from pipeline.data.manifest.text_rows import ENDINGS as FORMS
from pipeline.data.manifest.text_rows import TextRows
from pipeline.data.storage import files, uris
from pipeline.data.storage.listing import File
from pipeline.data.words import columns_in_words

ENDINGS = tuple(f".{ending}" for ending in FORMS)

NAME_COLUMNS = (
    *("file_name", "content_uri", "content", "image", "uri", "url", "path", "file", "filename"),
)
"""Columns that may hold an image's path or URI; the first that is there counts."""

ROWS_AT_ONCE = 4096


def open_lists(uri: str, options: files.StorageOptions, columns: Columns) -> Source:
    """Return the images that text files list. Relative paths start at the file's folder.

    Args:
        uri: a CSV, TSV or JSON lines file, a glob, or names with braces.
        options: fsspec options by scheme.
        columns: of the images, labels and keys. By default the label is in ``label``, its id in
            ``label_id`` and the split in ``split``.

    Raises:
        SourceError: a file cannot be read, or lacks a column.
    """
    first = next(fitting(uri, options, ENDINGS, Counter()), None)
    header = set(_open(first, options, columns)[0].schema.names) if first else set()

    def contents(skipped: Counter[str]) -> Iterator[Content]:
        for file in fitting(uri, options, ENDINGS, skipped):
            yield from _contents(file, options, columns, skipped)

    label = columns.label or "label"
    found = {name for name in ("label_id", "split") if name in header}
    if label in header:
        found |= {"label", "label_id"}
    found |= header.intersection(CREDITS)
    return Source("csv", contents, frozenset(found))


def _open(file: File, options: files.StorageOptions, columns: Columns) -> tuple[TextRows, str]:
    """Return the rows, and the column that holds the images."""
    shown = uris.redact(file.uri)
    try:
        rows = TextRows(file.uri, options, FORMS[ending_of(file.key)[1:]])
    except ManifestError as error:
        raise _reworded(error) from error
    names = rows.schema.names
    image = next((name for name in (columns.image, *NAME_COLUMNS) if name in names), "")
    missing = [name for name in (columns.image, columns.label, columns.key) if name]
    missing = [name for name in missing if name not in names]
    if missing or not image:
        what = repr(missing[0]) if missing else "of images (file_name, content_uri, image, ...)"
        raise SourceError(f"{shown}: has no column {what}; its columns: {columns_in_words(names)}")
    return rows, image


def _reworded(error: ManifestError) -> SourceError:
    return SourceError(str(error).removeprefix("manifest "))


def _contents(
    file: File, options: files.StorageOptions, columns: Columns, skipped: Counter[str]
) -> Iterator[Content]:
    source, image = _open(file, options, columns)
    base = file.uri.rpartition("/")[0]
    try:
        for some in source.slices(ROWS_AT_ONCE):
            for index, row in enumerate(some.rows):
                if index in some.faults:
                    skipped["on a line that cannot be read"] += 1
                    continue
                content = _content(row, base, image, columns)
                if isinstance(content, str):
                    skipped[content] += 1
                else:
                    yield content
    except ManifestError as error:
        raise _reworded(error) from error


def _content(row: dict[str, Any], base: str, image: str, columns: Columns) -> Content | str:
    """Return a row's content, or why it is skipped."""
    name = _text(row[image])
    if not name:
        return "without an image"
    uri = uris.resolve(name, base)
    if "::" in uri:
        return "'::' in the name"
    if uris.redact(uri) != uri:
        return "with a password or a signature in the address"
    key = _text(row[columns.key]) if columns.key else name.removeprefix("./")
    if not key:
        return "without a key"
    label = row.get(columns.label or "label")
    number = number_of(label)
    label_id = _whole(row.get("label_id")) if number is None else number
    path = uri.removeprefix(f"{base}/")
    split = _text(row.get("split"))
    credits = {name: text for name in CREDITS if (text := _text(row.get(name)))}
    name = _text(label) if number is None else None
    return Content(uri, key, path, name, label_id, split, credits)


def _text(value: Any) -> str | None:
    return None if value is None else str(value).strip() or None


def _whole(value: Any) -> int | None:
    text = (_text(value) or "").removesuffix(".0")
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text) else None
