"""Deleting what earlier jobs wrote in an output, for ``--overwrite``, and nothing else.

An image is a job's if a record names it, or if its name is an id that was derived from a row (a
killed run leaves images without records); a file of records by its columns, or, where it is
damaged, by the name that Ray Data gave it. Whatever else lies in their folders stays.

A mark says that deleting has begun: the records go after the images that they name, and without it
a run after a kill would take such records for the truth.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq

from pipeline.data.output import packing, records, resume
from pipeline.data.storage import files, tables, uris
from pipeline.settings import SettingError

DERIVED_IMAGE = re.compile(r"(.*--)?[0-9a-f]{20}\.(png|jpg|webp)")
RAYS_NAME = re.compile(r"\w+_[0-9a-f]{32}_\d{6,}-\d+\.parquet")
MARK = "__overwrite__.json"
COLUMNS = {"pair_id", "status", "file_name"}
"""What every file of records has had."""


def is_begun(output: str, options: files.StorageOptions) -> bool:
    """Whether a run was killed while it deleted: what is left must be deleted too.

    Raises:
        RowError: that is not known.
    """
    return files.exists(uris.join(output, MARK), options)


def clear(output: str, options: files.StorageOptions) -> list[str]:
    """Delete images, records, checkpoint, shards, report and summary of earlier jobs.

    ``job.json`` stays, so that a run that is killed here can be started again; the next one is
    written in its place.

    Returns:
        The files among images and records that are no job's, relative to the output. They stay.

    Raises:
        SettingError: a Parquet file among the records is no job's. Nothing has been deleted.
        RowError: the output cannot be listed, or a file of it not be deleted.
    """
    file_names = _names_below(output, records.RECORDS, options)
    own_records, named = _own_records(output, file_names, options)
    images = _names_below(output, records.IMAGES, options)
    own_images = [name for name in images if _is_own_image(name, named)]
    shards = [
        name
        for form in packing.FORMATS
        if packing.own_index(output, form, options)
        for name in _names_below(output, form, options)
        if packing.is_own(name.partition("/")[2], form)
    ]
    mark = uris.join(output, MARK)
    files.write_bytes(mark, b"{}\n", options)
    # Then what vouches for others: the records for their images, an index for its shards.
    indices = [name for name in shards if name.rpartition("/")[2] == packing.INDEX]
    first = [*own_images, *(name for name in shards if name not in indices)]
    for some in (first, [*indices, *own_records]):
        files.delete_files([uris.join(output, name) for name in some], options)
    for name in (records.CHECKPOINT, records.SUMMARY, records.REPORT, resume.JOURNAL):
        files.delete(uris.join(output, name), options)
    for folder in (records.IMAGES, records.RECORDS, *packing.FORMATS):
        files.delete_empty_folders(uris.join(output, folder))
    files.delete(mark, options)
    return sorted({*images, *file_names}.difference(own_images, own_records))


def _names_below(output: str, folder: str, options: files.StorageOptions) -> list[str]:
    return [f"{folder}/{name}" for name in files.sizes(uris.join(output, folder), options)]


def _own_records(
    output: str, file_names: Iterable[str], options: files.StorageOptions
) -> tuple[list[str], set[str]]:
    """The files of records, and the images that they name.

    Raises:
        SettingError: a Parquet file is none of them, and would be read as one.
    """
    parquet = [name for name in file_names if _is_visible_parquet(name)]
    own = [name for name in file_names if files.is_leftover(name)]
    named: set[str] = set()

    def look(name: str) -> set[str] | None:
        return _images_in(uris.join(output, name), options)

    with ThreadPoolExecutor(resume.THREADS) as pool:
        for name, found in zip(parquet, pool.map(look, parquet), strict=True):
            if found is None and not RAYS_NAME.fullmatch(name.rpartition("/")[2]):
                raise SettingError(
                    f"overwrite: {uris.redact(uris.join(output, name))} is no file of a "
                    "job's records, so nothing is deleted; move it away, or choose another output"
                )
            own.append(name)
            named |= found or set()
    return own, named


def _is_visible_parquet(name: str) -> bool:
    """As ``storage.list_files`` finds the files of records."""
    return name.endswith(".parquet") and not name.rpartition("/")[2].startswith(".")


def _images_in(uri: str, options: files.StorageOptions) -> set[str] | None:
    """The images that a file of records names; None if it is none, or damaged."""
    fs, path = files.arrow_filesystem(uri, options)
    try:
        with fs.open_input_file(path) as file, pq.ParquetFile(file) as parquet:
            tables.refuse_pickles(parquet.schema_arrow, uri)
            if not set(parquet.schema_arrow.names) >= COLUMNS:
                return None
            names = parquet.read(["file_name"])["file_name"].to_pylist()
    except Exception:  # a flipped byte shows in many ways
        return None
    return {name for name in names if isinstance(name, str)}


def _is_own_image(name: str, named: set[str]) -> bool:
    _, *folders, last = name.split("/")
    return (
        name in named
        or DERIVED_IMAGE.fullmatch(last) is not None
        or (last == "metadata.parquet" and len(folders) <= 1)  # images/[SPLIT/]
        or files.is_leftover(name)
    )
