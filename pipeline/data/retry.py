"""Forget the failed rows of an earlier run, so that the next one does them again.

A row that ended as an error is done as far as Ray Data's checkpoint knows. Its id leaves the
checkpoint and its record leaves the records. Both are several files, and a crash may come between
any two: the ids are therefore written down first, and every run begins by finishing what stands
there. Doing it twice does no harm.
"""

import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data import records, storage

JOURNAL = "__retry__.parquet"


def forget_errors(output: str, options: storage.StorageOptions) -> int:
    """Make every failed row undone. Returns how many there were."""
    ids = [row["pair_id"] for row in records.iterate(output, options, ["pair_id"], status="error")]
    if ids:
        _write(storage.join(output, JOURNAL), pa.table({"pair_id": ids}), options)
        finish_forgetting(output, options)
    return len(ids)


def finish_forgetting(output: str, options: storage.StorageOptions) -> None:
    """Carry out what an earlier run wrote down to forget; nothing if there is nothing."""
    journal = storage.join(output, JOURNAL)
    if not storage.exists(journal, options):
        return
    ids = _read(journal, options)["pair_id"]
    for file in storage.list_files(storage.join(output, records.CHECKPOINT), options, ".parquet"):
        if file.endswith(records.PENDING):
            continue
        table = _read(file, options)
        _keep(file, table, pc.invert(pc.is_in(table["pair_id"], ids)), options)
    for file in records.committed_files(output, options):
        table = _read(file, options)
        forgotten = pc.and_(pc.is_in(table["pair_id"], ids), pc.equal(table["status"], "error"))
        _keep(file, table, pc.invert(forgotten), options)
    storage.delete(journal, options)


def _keep(
    file: str, table: pa.Table, keep: pa.ChunkedArray, options: storage.StorageOptions
) -> None:
    kept = table.filter(keep)
    if not len(kept):
        storage.delete(file, options)
    elif len(kept) < len(table):
        _write(file, kept, options)


def _read(uri: str, options: storage.StorageOptions) -> pa.Table:
    return pq.read_table(io.BytesIO(storage.read_bytes(uri, options)))


def _write(uri: str, table: pa.Table, options: storage.StorageOptions) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(uri, buffer.getvalue(), options)
