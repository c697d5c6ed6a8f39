"""Reading the records of an output: one row per pair, ``ok`` and ``error`` alike.

An output may hold files of several versions of this program. ``batches`` reads all of them under
the names of ``RECORD_SCHEMA``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.data.errors import RowError
from pipeline.data.manifest import lineage
from pipeline.data.names import is_name
from pipeline.data.schemas import OLD_NAMES, RECORD_SCHEMA, SCHEMA_VERSION
from pipeline.data.storage import failures, files, filesystems, tables, uris
from pipeline.settings import SettingError

IMAGES, RECORDS, CHECKPOINT = "images", "records", "__checkpoint__"
"""Folders of an output."""

JOB, SUMMARY, REPORT = "job.json", "summary.json", "report.html"
"""Files of an output."""

SECONDS = ("load_seconds", "optimize_seconds", "store_seconds")
"""Record columns that say how long each stage took."""

ROWS_AT_ONCE = 1024
"""Records that ``iterate`` turns into dictionaries at a time: each may hold thousands of losses."""

PENDING = ".pending.parquet"
"""Ending of Ray Data's checkpoint files for record files that may be incomplete."""


class DamagedError(RowError):
    """A file that an earlier job wrote is damaged. The message names it and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__("read_failed", message)


class LaterVersionError(SettingError):
    """A later version of this program wrote the output. The message says what to do."""


def committed_files(output: str, options: files.StorageOptions) -> list[str]:
    """List the record files that are complete; Ray Data deletes the others at the next start."""
    marks = files.list_files(uris.join(output, CHECKPOINT), options, PENDING)
    unfinished = tuple(mark.rpartition("/")[2].removesuffix(PENDING) for mark in marks)
    file_names = files.list_files(uris.join(output, RECORDS), options, ".parquet")
    return [file for file in file_names if not file.rpartition("/")[2].startswith(unfinished)]


def job_of(output: str, options: files.StorageOptions) -> dict[str, Any]:
    """Return the content of an output's ``job.json``; empty if there is none or it is damaged.

    Raises:
        RowError: the storage failed.
    """
    uri = uris.join(output, JOB)
    try:
        found = json.loads(files.read_bytes(uri, options)) if files.exists(uri, options) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def lineage_of(output: str, options: files.StorageOptions) -> lineage.Lineage:
    """Return what an output's ``job.json`` says of the sources.

    Raises:
        RowError: the storage failed.
    """
    return lineage.from_json(job_of(output, options).get("data_set"))


def records_dataset(
    output: str, options: files.StorageOptions, texts: Iterable[str] = ()
) -> pyarrow.dataset.Dataset | None:
    """Open all records of an output.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        texts: columns that are taken for texts if the first file lacks them.

    Returns:
        A dataset with every column of ``RECORD_SCHEMA`` (null in files that lack it) and the other
        columns of the first file; None if there are no records yet.
    """
    file_names = committed_files(output, options)
    if not file_names:
        return None
    fs, _ = filesystems.arrow_filesystem(output, options)
    paths = [filesystems.arrow_filesystem(file, options)[1] for file in file_names]
    found = pyarrow.dataset.dataset(paths, filesystem=fs, format="parquet")
    tables.refuse_pickles(found.schema, uris.redact(uris.join(output, RECORDS)))
    old = [RECORD_SCHEMA.field(new).with_name(name) for new, name in OLD_NAMES.items()]
    own = pa.schema([*RECORD_SCHEMA, *old])
    more = [field for field in found.schema if field.name not in own.names]
    missing = [name for name in texts if name not in {*own.names, *found.schema.names}]
    schema = pa.schema([*own, *more, *((name, pa.string()) for name in missing)])
    fragments = list(found.get_fragments())
    return pyarrow.dataset.FileSystemDataset(fragments, schema, found.format, filesystem=fs)


def iterate(
    output: str, options: files.StorageOptions, columns: list[str], status: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield records as dictionaries; one batch is in memory at a time. See ``batches``."""
    for batch in batches(output, options, columns, status):
        for start in range(0, len(batch), ROWS_AT_ONCE):
            yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()


def batches(
    output: str, options: files.StorageOptions, columns: list[str], status: str | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield columns of all records in the order of their files.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        columns: names from ``RECORD_SCHEMA``, or texts that came from the manifest; files of
            version 1 are read under their old names.
        status: yield only records with this status.

    Raises:
        DamagedError: a record file is damaged, or holds what no job writes.
        RowError: ``read_failed``: the storage failed.
    """
    try:
        dataset = records_dataset(output, options, columns)
        if dataset is None:
            return
        for batch in _batches(dataset, columns, status):
            _refuse_foreign(batch, status)
            yield batch
    except (pa.ArrowException, OSError, ValueError) as error:
        for file_name in committed_files(output, options):  # Arrow does not always name the file
            read_file(file_name, options)
        shown = uris.redact(uris.join(output, RECORDS))
        text = f"{shown}: cannot be read: {failures.reason(error)}"
        raise RowError("read_failed", text) from error


def _batches(
    dataset: pyarrow.dataset.Dataset, columns: list[str], status: str | None
) -> Iterator[pa.RecordBatch]:
    chosen = None if status is None else pc.field("status") == status
    # If they were kept, the footers of thousands of small files would outweigh their rows.
    if {*columns}.isdisjoint({*OLD_NAMES, "schema_version"}):
        yield from dataset.to_batches(columns=columns, filter=chosen, cache_metadata=False)
        return
    for file in dataset.get_fragments():
        yield from file.to_batches(
            schema=dataset.schema,
            columns=_columns_of(file.physical_schema, columns),
            filter=chosen,
            cache_metadata=False,
        )


def _refuse_foreign(found: pa.RecordBatch | pa.Table, status: str | None = None) -> None:
    """Refuse records that no job writes: without an id or a file, or that lead out of the output.

    Args:
        found: columns of records.
        status: of all of them, if it is known.

    Raises:
        ValueError: says what is wrong.
    """
    names = {*found.schema.names}
    if "pair_id" in names and found["pair_id"].null_count:
        raise ValueError("a record has no pair_id")
    found = found.select([name for name in ("status", "file_name", "split") if name in names])
    if status is None and "status" in names:
        found = found.filter(pc.equal(found["status"], "ok"))
    elif status != "ok":
        return
    if "file_name" in names and found["file_name"].null_count:
        raise ValueError("an ok record has no file_name")
    for split in found["split"].unique().to_pylist() if "split" in names else ():
        if split is not None and not is_name(split):
            raise ValueError(f"the split {split!r} of a record cannot be a folder's name")


def _columns_of(schema: pa.Schema, columns: list[str]) -> dict[str, pc.Expression]:
    """Map this version's column names to what a record file with ``schema`` holds.

    A file of version 1 may have a column of the manifest under a name that is taken today.
    """
    found = {name: pc.field(name) for name in columns}
    if not {*OLD_NAMES.values()} <= {*schema.names}:
        return found
    for name in found.keys() & OLD_NAMES.keys():
        found[name] = pc.field(OLD_NAMES[name])
    if "schema_version" in found:
        found["schema_version"] = pc.scalar(pa.scalar(1, pa.int32()))
    return found


def read_file(file: str, options: files.StorageOptions) -> pa.Table:
    """Read one Parquet file of records or of the checkpoint, under the names in the file.

    Raises:
        DamagedError: the file is damaged, or holds what no job writes.
        RowError: as ``files.read_bytes``.
    """
    try:
        table = tables.read_table(file, options)
        table["pair_id"]
        _refuse_foreign(table)
    except RowError:
        raise
    except Exception as error:  # a flipped byte shows in many ways
        raise DamagedError(
            f"{uris.redact(file)}: is damaged ({failures.reason(error)}); delete it, and run the "
            "job again: it redoes the pairs that have no record",
        ) from error
    return table


def refuse_later_version(job: Mapping[str, Any], shown: str) -> None:
    """Refuse an output that a later version of this program has written.

    Args:
        job: content of its ``job.json``.
        shown: the output's URI, without credentials.

    Raises:
        LaterVersionError: names both versions.
        TypeError: ``schema_version`` is not a number.
    """
    version = job.get("schema_version", 1)
    if version > SCHEMA_VERSION:
        raise LaterVersionError(
            f"output {shown}: was written by a later version of this program (schema_version "
            f"{version}, this program knows up to {SCHEMA_VERSION}); update this program, or "
            "choose another output"
        )


def is_image_name(file_name: str) -> bool:
    """Return whether a job gives such names: images/[SPLIT/][LABEL/]NAME.png, jpg or webp.

    Any other name may lead out of the output.
    """
    folder, *folders, last = file_name.split("/") if "/" in file_name else ("", file_name)
    name, _, ending = last.rpartition(".")
    inside = folder == IMAGES and len(folders) <= 2 and ending in ("png", "jpg", "webp")
    return inside and all(map(is_name, (*folders, name)))


def write_json(uri: str, value: Any, options: files.StorageOptions) -> None:
    """Write indented JSON, replacing the whole file.

    Raises:
        RowError: as ``files.write_bytes``.
    """
    text = json.dumps(value, indent=2, sort_keys=False, default=str) + "\n"
    files.write_bytes(uri, text.encode(), options)
