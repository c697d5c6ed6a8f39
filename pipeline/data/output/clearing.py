"""Deleting what earlier jobs wrote in an output, and nothing else, for ``--overwrite``.

An image is a job's if a record names it, or if its name is an id derived from a row (a killed job
leaves images without records). A record file is a job's if it has the columns of records, or, if
damaged, the kind of name that Ray Data gives. All other files in these folders stay.

A marker file says that deleting has begun. Images are deleted before the records that name them;
without the marker, a job after a kill would trust such records.
"""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq

from pipeline.data.output import cards, fences, packing, records, resume
from pipeline.data.storage import files, filesystems, local, tables, uris
from pipeline.settings import SettingError

DERIVED_IMAGE = re.compile(r"(.*--)?[0-9a-f]{20}\.(png|jpg|webp)")
"""Name of an image whose pair has no ``pair_id`` in the manifest."""

RAYS_NAME = re.compile(r"\w+_[0-9a-f]{32}_\d{6,}-\d+\.parquet")
"""Name that Ray Data gives to a record file."""

MARK = "__overwrite__.json"
"""Marker file: deleting has begun."""

COLUMNS = {"pair_id", "status", "file_name"}
"""Columns of record files of every version."""


def is_begun(output: str, options: files.StorageOptions) -> bool:
    """Return whether a job was killed while it deleted, so that the rest must be deleted too.

    Raises:
        RowError: the storage failed.
    """
    return files.exists(uris.join(output, MARK), options)


def clear(
    output: str, options: files.StorageOptions, fence: Callable[[], None] = fences.unfenced
) -> list[str]:
    """Delete images, records, checkpoint, shards, report and summary of earlier jobs.

    ``job.json`` stays, so that a job killed here can be started again; the next job replaces it.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        fence: ``Lease.check``; called again and again, so that a job that was paused meanwhile
            deletes nothing of the one that has taken the output over.

    Returns:
        Files among the images and records that no job wrote and that stay, relative to the output.

    Raises:
        SettingError: no job wrote a Parquet file among the records. Nothing has been deleted.
        RowError: the output cannot be listed, or a file cannot be deleted.
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
    check = fences.lasting(fence)
    check()
    mark = uris.join(output, MARK)
    files.write_bytes(mark, b"{}\n", options)
    for form in packing.FORMATS:
        if packing.own_index(output, form, options):
            cards.delete_own(output, form, options)
    # Files that tell whose others are go last: records for images, an index for its shards.
    indices = [name for name in shards if name.rpartition("/")[2] == packing.INDEX]
    first = [*own_images, *(name for name in shards if name not in indices)]
    for some in (first, [*indices, *own_records]):
        files.delete_files([uris.join(output, name) for name in some], options, check)
    check()
    for name in (records.CHECKPOINT, records.SUMMARY, records.REPORT, resume.JOURNAL):
        files.delete(uris.join(output, name), options)
    for folder in (records.IMAGES, records.RECORDS, *packing.FORMATS):
        local.delete_empty_folders(uris.join(output, folder))
    files.delete(mark, options)
    return sorted({*images, *file_names}.difference(own_images, own_records))


def _names_below(output: str, folder: str, options: files.StorageOptions) -> list[str]:
    return [f"{folder}/{name}" for name in files.sizes(uris.join(output, folder), options)]


def _own_records(
    output: str, file_names: Iterable[str], options: files.StorageOptions
) -> tuple[list[str], set[str]]:
    """Return the record files, and the images that they name.

    Raises:
        SettingError: a Parquet file is no record file, but would be read as one.
    """
    parquet = [name for name in file_names if _is_visible_parquet(name)]
    own = [name for name in file_names if local.is_leftover(name)]
    named: set[str] = set()

    def look(name: str) -> set[str] | None:
        return _images_in(uris.join(output, name), options)

    with ThreadPoolExecutor(resume.THREADS) as pool:
        for name, found in zip(parquet, pool.map(look, parquet), strict=True):
            if found is None and not RAYS_NAME.fullmatch(name.rpartition("/")[2]):
                raise SettingError(
                    f"overwrite: {uris.redact(uris.join(output, name))} is not a record file of "
                    "a job, so nothing was deleted; move it away, or choose another output"
                )
            own.append(name)
            named |= found or set()
    return own, named


def _is_visible_parquet(name: str) -> bool:
    """Return whether ``files.list_files`` would list it among the record files."""
    return name.endswith(".parquet") and not name.rpartition("/")[2].startswith(".")


def _images_in(uri: str, options: files.StorageOptions) -> set[str] | None:
    """Return the images that a record file names; None if it is damaged or no record file."""
    fs, path = filesystems.arrow_filesystem(uri, options)
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
        or local.is_leftover(name)
    )
