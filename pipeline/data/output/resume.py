"""What must be true of an output before a run goes on in it: checkpoint and records agree.

Ray Data's checkpoint says which pairs are done; the records are what users have, and count. Where
a pair has no record, it is made undone, so that the run does it again; where the checkpoint lacks a
recorded pair, it gets it. A row that ended as an error is done as far as the checkpoint knows:
``--retry-errors`` makes it undone too.
"""

import itertools
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.ids import among, hash_ids
from pipeline.data.output import packing, records
from pipeline.data.output.clashes import COLUMNS, Clashes
from pipeline.data.storage import files, tables, uris
from pipeline.data.words import some_of

logger = logging.getLogger(__name__)

JOURNAL = "__retry__.parquet"
MENDED = "from-records-"
"""How the name of a checkpoint file begins that ``repair`` wrote."""

THREADS = 32
"""Requests under way at once when many small files are read."""

TOGETHER = 100
"""Files whose ids are looked up at once: Arrow prepares all known ids anew for each lookup, which
takes longer than to read a file."""


def repair(output: str, options: files.StorageOptions, clashes: Clashes | None = None) -> None:
    """Finish what a killed run began, and have the checkpoint know what is recorded, no more.

    Doing it twice does no harm: a kill in between is mended by the next run's call.

    Args:
        clashes: is shown the records on the way. They may lie in thousands of files.

    Raises:
        RowError: a file of the records or of the checkpoint cannot be read, or not be replaced.
    """
    _delete_leftovers(output)
    _drop_stale_marks(output, options)
    _finish_forgetting(output, options)
    known = _record_ids(output, options, None, clashes)
    checkpointed: list[pa.Array] = []

    def recorded(rows: pa.Table) -> pa.ChunkedArray:
        checkpointed.extend(rows["pair_id"].chunks)
        return pc.is_in(rows["pair_id"], known)

    _prune(_committed(output, options), ["pair_id"], recorded, options)
    have = pa.chunked_array(checkpointed, pa.string())
    lost = known.filter(pc.invert(pc.is_in(known, have))).drop_null().unique()
    if len(lost):
        name = f"{MENDED}{uuid.uuid4().hex}.parquet"
        file = uris.join(output, records.CHECKPOINT, name)
        tables.write_table(file, pa.table({"pair_id": lost}), options)


def _delete_leftovers(output: str) -> None:
    """Everywhere in the output but in folders that are no job's. The lease may just be renewed:
    then that waits for the next time."""
    kept = files.delete_leftovers(output, below=False)
    for name in (records.IMAGES, records.RECORDS, records.CHECKPOINT, *packing.FORMATS):
        kept += files.delete_leftovers(uris.join(output, name))
    if kept:
        logger.warning(
            f"warning: what a killed run left half-written cannot be deleted: {some_of(kept)}; "
            "nobody reads it",
        )


def forget_errors(output: str, options: files.StorageOptions, ids: npt.NDArray[np.int64]) -> int:
    """Make the failed rows among ``ids`` undone. Returns how many there were.

    Other manifests' records stay as they are: this run would not do their pairs again. Ids and
    records lie in several files, and a kill may come between any two: the ids are therefore
    written down first, and ``repair`` finishes what stands there.

    Args:
        ids: hashes of the manifest's pairs.
    """
    known = np.sort(ids)
    rows = records.iterate(output, options, ["pair_id"], status="error")
    named = [row["pair_id"] for row in rows]
    failed = list(itertools.compress(named, among(hash_ids(named), known)))
    if failed:
        tables.write_table(uris.join(output, JOURNAL), pa.table({"pair_id": failed}), options)
        _finish_forgetting(output, options)
    return len(failed)


def done_hashes(
    output: str,
    options: files.StorageOptions,
    *,
    retry_errors: bool,
    clashes: Clashes | None = None,
) -> npt.NDArray[np.int64]:
    """The hashes of the ids that a run would leave alone. Nothing is mended, nor written.

    Args:
        retry_errors: the failed ones are to be done again.
        clashes: as for ``repair``.
    """
    recorded = _record_ids(output, options, "ok" if retry_errors else None, clashes)
    return np.unique(hash_ids(recorded.to_pylist()))


def _record_ids(
    output: str, options: files.StorageOptions, status: str | None, clashes: Clashes | None
) -> pa.ChunkedArray:
    columns = ["pair_id"] if clashes is None else [*COLUMNS]
    found = []
    for batch in records.batches(output, options, columns, status):
        found.append(batch["pair_id"])
        if clashes is not None:
            clashes.look(batch)
    return pa.chunked_array(found, pa.string())


def checkpointed_ids(output: str, options: files.StorageOptions) -> Iterator[str]:
    """The ids that Ray Data's checkpoint knows as done."""
    for _, table in _tables(_committed(output, options), options):
        yield from table["pair_id"].to_pylist()


def _drop_stale_marks(output: str, options: files.StorageOptions) -> None:
    """Object stores rename by copy and delete: a kill in between leaves both names.

    Then the records are complete, and the pending mark, which would have Ray Data delete them, is
    what is wrong.
    """
    file_names = files.list_files(uris.join(output, records.CHECKPOINT), options, ".parquet")
    names = set(file_names)
    for file in file_names:
        if file.endswith(records.PENDING):
            twin = file.removesuffix(records.PENDING) + ".parquet"
            if twin in names:
                files.delete(file, options)


def _finish_forgetting(output: str, options: files.StorageOptions) -> None:
    journal = uris.join(output, JOURNAL)
    if not files.exists(journal, options):
        return
    ids = records.read_file(journal, options)["pair_id"]

    def sound(rows: pa.Table) -> pa.ChunkedArray:
        failed = pc.and_(pc.is_in(rows["pair_id"], ids), pc.equal(rows["status"], "error"))
        return pc.invert(failed)

    _prune(
        _committed(output, options),
        ["pair_id"],
        lambda rows: pc.invert(pc.is_in(rows["pair_id"], ids)),
        options,
    )
    _prune(records.committed_files(output, options), ["pair_id", "status"], sound, options)
    files.delete(journal, options)


def _committed(output: str, options: files.StorageOptions) -> list[str]:
    folder = uris.join(output, records.CHECKPOINT)
    file_names = files.list_files(folder, options, ".parquet")
    return [file for file in file_names if not file.endswith(records.PENDING)]


def _prune(
    file_names: list[str],
    columns: list[str],
    stay: Callable[[pa.Table], pa.ChunkedArray],
    options: files.StorageOptions,
) -> None:
    """Leave in each file the rows that ``stay`` says, seeing ``columns``; no rows, no file."""
    for start in range(0, len(file_names), TOGETHER):
        found = list(_tables(file_names[start : start + TOGETHER], options))
        staying = stay(pa.concat_tables([table.select(columns) for _, table in found]))
        for file, table in found:
            _keep(file, table, staying.slice(0, len(table)), options)
            staying = staying.slice(len(table))


def _keep(file: str, table: pa.Table, keep: pa.ChunkedArray, options: files.StorageOptions) -> None:
    kept = table.filter(keep)
    if not len(kept):
        files.delete(file, options)
    elif len(kept) < len(table):
        tables.write_table(file, kept, options)


def _tables(
    file_names: Iterable[str], options: files.StorageOptions
) -> Iterator[tuple[str, pa.Table]]:
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda file: (file, records.read_file(file, options)), file_names)
