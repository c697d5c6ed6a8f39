"""Preparing an output to be resumed: its checkpoint and its records must agree.

Ray Data's checkpoint says which pairs are done, but the records decide. A pair without a record is
removed from the checkpoint, so that the job redoes it. A recorded pair that the checkpoint lacks is
added. The checkpoint counts failed pairs as done; ``--retry-errors`` removes them as well.
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
from pipeline.data.storage import files, local, tables, uris
from pipeline.data.words import some_of

logger = logging.getLogger(__name__)

JOURNAL = "__retry__.parquet"
"""Ids of failed pairs that are being removed from checkpoint and records."""

MENDED = "from-records-"
"""Prefix of the checkpoint files that ``repair`` writes."""

THREADS = 32
"""Files that are read at once."""

TOGETHER = 100
"""Files whose ids are looked up in one call.

For each call Arrow prepares all known ids again, which takes longer than reading a file.
"""


def repair(output: str, options: files.StorageOptions, clashes: Clashes | None = None) -> None:
    """Finish what a killed job began, and make the checkpoint list exactly the recorded pairs.

    A second call changes nothing; after a kill, the next job's call completes the repair.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        clashes: gets every record, so that thousands of record files are read only once.

    Raises:
        RowError: a file of the records or of the checkpoint cannot be read or replaced.
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
    """Delete half-written files in the output, except in folders that no job made.

    A lease that is being renewed may be among them; it then stays until the next time.
    """
    kept = local.delete_leftovers(output, below=False)
    for name in (records.IMAGES, records.RECORDS, records.CHECKPOINT, *packing.FORMATS):
        kept += local.delete_leftovers(uris.join(output, name))
    if kept:
        logger.warning(
            "warning: half-written files of a killed job cannot be deleted: "
            f"{some_of(kept)}; they do no harm",
        )


def forget_errors(output: str, options: files.StorageOptions, ids: npt.NDArray[np.int64]) -> int:
    """Remove the failed pairs among ``ids`` from checkpoint and records, so that they are redone.

    Records of other manifests stay, since this job would not redo their pairs. Several files
    change, and a kill may come between any two. The ids are therefore written to a journal first,
    from which ``repair`` can finish.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        ids: hashes of the ids of the manifest's pairs.

    Returns:
        The number of failed pairs.

    Raises:
        RowError: a file cannot be read or replaced.
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
    """Return hashes of the ids of pairs that a job would skip. Writes nothing.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        retry_errors: whether failed pairs are redone.
        clashes: as for ``repair``.

    Raises:
        RowError: the records cannot be read.
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
    """Yield the ids that Ray Data's checkpoint lists as done.

    Raises:
        RowError: a file of the checkpoint cannot be read.
    """
    for _, table in _tables(_committed(output, options), options):
        yield from table["pair_id"].to_pylist()


def _drop_stale_marks(output: str, options: files.StorageOptions) -> None:
    """Delete pending checkpoint files whose records are complete.

    Object stores rename by copy and delete, and a kill in between leaves both names. The records
    are then complete, but Ray Data would delete them because of the pending file.
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
    """Keep in each file the rows for which ``stay``, given ``columns``, is true.

    A file without such rows is deleted.
    """
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
