"""Opening a data set of any kind, and telling which kind it is."""

import itertools
from collections import Counter

from pipeline.data.make_manifest.sources import images, lists, tables, tars
from pipeline.data.make_manifest.sources.base import Columns, Source
from pipeline.data.make_manifest.sources.images import ending_of
from pipeline.data.storage import files
from pipeline.data.storage.listing import iterate_files

LOOKED_AT = 1000
"""Files of a folder that are looked at to tell what it is."""

IMAGES_PER_FILE = 10
"""Images for each tar or Parquet file above which a folder is one of images."""

_BY_ENDING = {
    **dict.fromkeys(tars.TARS, "tar"),
    **dict.fromkeys(tables.ENDINGS, "parquet"),
    **dict.fromkeys(lists.ENDINGS, "csv"),
}


def open_source(
    uri: str, options: files.StorageOptions, form: str = "auto", columns: Columns | None = None
) -> Source:
    """Open a data set.

    Args:
        uri: what it stands for depends on the kind; see the functions of the kinds.
        options: fsspec options by scheme.
        form: a ``content_format``.
        columns: those that the user chose.

    Raises:
        ListingError: ``uri`` cannot be listed.
        SourceError: a file cannot be read, or leaves open what is meant.
        RowError: a file cannot be read.
    """
    columns = columns or Columns()
    if form == "auto":
        form = _form_of(uri, options)
    if form == "tar":
        return tars.open_tars(uri, options, columns)
    if form == "csv":
        return lists.open_lists(uri, options, columns)
    if form in ("parquet", "hugging-face"):
        return tables.open_tables(uri, options, columns, form)
    return images.open_images(uri, options)


def _form_of(uri: str, options: files.StorageOptions) -> str:
    """Return what a URI stands for: by its ending, or by the first files below it."""
    found = _BY_ENDING.get(ending_of(uri))
    if found:
        return found
    counts: Counter[str] = Counter()
    table = ""
    for file in itertools.islice(iterate_files(uri, options), LOOKED_AT):
        kind = _BY_ENDING.get(ending_of(file.key), "images")
        if kind == "images" and ending_of(file.key) not in images.ENDINGS:
            continue
        counts[kind] += 1
        if kind == "parquet" and (not table or file.uri < table):
            table = file.uri
    # A data set often has a few pictures beside its tables, for its page on the hub.
    few = counts["images"] / IMAGES_PER_FILE
    if counts["tar"] and counts["tar"] >= max(few, counts["parquet"]):
        return "tar"
    if table and counts["parquet"] >= few and tables.holds_images(table, options):
        return "parquet"
    return "images"
