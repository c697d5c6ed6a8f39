"""What is done once over all rows of a job: measurements without Ray and without a network.

Call them through ``alone``: they report the memory of their process.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.alone import Numbers, peak_bytes
from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest, planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import closing, records, resume
from pipeline.data.schemas import RECORD_SCHEMA

PIECE = 50_000
"""Rows of a manifest that are in memory at a time while it is written."""


def write_plan(source: str, target: str) -> planning.Plan:
    """Check a manifest with files alone and write its plan into the directory ``target``."""
    checker = RowChecker(str(Path(source).parent), "fingerprint", frozenset({"file"}))
    opened = manifest.open_manifest(source, {})
    return planning.write_plan(opened, target, {}, checker=checker, limit=None)


def plan_rows(rows: int = 1_000_000) -> Numbers:
    """Measure the seconds of a manifest's plan, and of telling which of its pairs are done."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/m.parquet"
        _write_manifest(source, rows)
        start_mib = peak_bytes() / 2**20
        started = time.perf_counter()
        plan = write_plan(source, f"{folder}/plan")
        planned = time.perf_counter()
        half = hash_ids(f"p{index:08d}" for index in range(0, rows, 2))
        counted = time.perf_counter()
        done = plan.count_done(half)
        ended = time.perf_counter()
    return {
        "faulty": plan.faulty,
        "done": done,
        "seconds": planned - started,
        "count_seconds": ended - counted,
        "start_mib": start_mib,
    }


def _write_manifest(path: str, rows: int) -> None:
    """Write rows of content and style URIs, every other one with an id."""
    schema = pa.schema([(name, pa.string()) for name in ("pair_id", "content_uri", "style_uri")])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, PIECE):
            numbers = range(start, min(start + PIECE, rows))
            columns: dict[str, Any] = {
                "pair_id": [f"p{n:08d}" if n % 2 == 0 else None for n in numbers],
                "content_uri": [f"images/{n % 1000:04d}/{n:08d}.jpg" for n in numbers],
                "style_uri": [f"paintings/{n * 7919 % 5000:04d}.jpg" for n in numbers],
            }
            writer.write_table(pa.table(columns, schema))


def close_output(rows: int = 1_000_000, files: int = 5_000) -> Numbers:
    """Measure what a job does once over all records.

    It repairs an output before it goes on there, finds the pairs that are done, and adds all
    records up at its end.

    Args:
        rows: records, in ``files`` equal files.
        files: files of records.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_records(Path(folder), rows, files)
        start_mib = peak_bytes() / 2**20
        times = [time.perf_counter()]
        resume.repair(folder, {})
        times.append(time.perf_counter())
        done = hash_ids(resume.checkpointed_ids(folder, {}))
        times.append(time.perf_counter())
        summary, hashes = closing.close(folder, {}, done)
        times.append(time.perf_counter())
    seconds = dict(zip(("repair", "checkpoint", "close"), np.diff(times).tolist(), strict=True))
    return {
        "ok": summary["ok"],
        "done": len(np.intersect1d(done, hashes)),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "start_mib": start_mib,
    }


def _write_records(folder: Path, rows: int, files: int) -> None:
    """Write an output's records and checkpoint, as a job leaves them."""
    per_file = rows // files
    row = {
        "status": "ok",
        "content_uri": "/data/images/0001/00000001.jpg",
        "style_uri": ["/data/paintings/0001.jpg"],
        "label": "n0001",
        "bytes": 100_000,
        "total_loss": 1.5,
        "content_loss": 0.5,
        "style_loss": 1.0,
        "loss_history": [1.0] * 100,
        "evaluations": 100,
        "load_seconds": 0.1,
        "optimize_seconds": 1.0,
        "store_seconds": 0.1,
    }
    table = pa.Table.from_pylist([row] * per_file, schema=RECORD_SCHEMA)
    for name in (records.RECORDS, records.CHECKPOINT, records.IMAGES):
        (folder / name).mkdir()
    for number in range(files):
        ids = [f"p{index:08d}" for index in range(number * per_file, (number + 1) * per_file)]
        columns = {"pair_id": ids, "file_name": [f"images/n0001/{name}.png" for name in ids]}
        for name, values in columns.items():
            table = table.set_column(RECORD_SCHEMA.get_field_index(name), name, pa.array(values))
        pq.write_table(table, folder / records.RECORDS / f"{number:06d}-0.parquet")
        done = pa.table({"pair_id": ids})
        pq.write_table(done, folder / records.CHECKPOINT / f"{number:06d}.parquet")
