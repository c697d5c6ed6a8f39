"""Ray Data's tasks in a packing: gather the records and images of a shard, and write it.

This is apart from ``run`` so that a task's process does not load what the driver needs.
"""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray

from pipeline.data.errors import RowError
from pipeline.data.images import codec
from pipeline.data.output import dividing, records, shards
from pipeline.data.storage import files, uris
from pipeline.engine.board import Board

THREADS = 16
"""Images of a shard that are fetched at once."""

WRITTEN = pa.schema(
    [
        ("name", pa.string()),
        ("split", pa.string()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("fault_class", pa.string()),
        ("fault", pa.string()),
    ]
)
"""A row for each shard: its entry in the index, or a fault if it could not be written."""


def write_shards(
    numbers: pa.Table,
    division: dividing.Packing,
    chunks: list[Any],
    output: str,
    options: files.StorageOptions,
    board: Board,
) -> Iterator[pa.Table]:
    """Write shards and yield a row of ``WRITTEN`` for each.

    Args:
        numbers: places in ``division.ranges``, in the column ``shard``.
        division: how the records are divided into shards.
        chunks: references to the tables of ``dividing.ok_records``. Each node fetches them once.
        output: URI of the output.
        options: storage options, by scheme.
        board: learns which shard is under way, and gives up one that ends process after process.

    Raises:
        RuntimeError: shard after shard ended its processes and none succeeded.
        LostError: another job has taken the output over.
    """
    for number in numbers["shard"].to_pylist():
        shard = division.ranges[number]
        work = functools.partial(_write_shard, shard, division, chunks, output, options)
        lines = board.in_turn("packing", {shard.name: work}, _given_up, "shard")
        (line,) = lines.values()
        board.add(int(line["fault"] is None), int(line["fault"] is not None))
        yield pa.Table.from_pylist([line], schema=WRITTEN)


def _given_up(name: str, fault: RowError) -> dict[str, Any]:
    return _fault(name, f"{name}: {fault}; a smaller shard_size takes less memory", fault)


def _fault(name: str, message: str, error: RowError) -> dict[str, Any]:
    return {"name": name, "fault_class": error.error_class, "fault": message}


def _write_shard(
    shard: dividing.ShardRange,
    division: dividing.Packing,
    chunks: list[Any],
    output: str,
    options: files.StorageOptions,
) -> dict[str, Any]:
    mine = [dividing.select(ray.get(chunk), shard).to_pylist() for chunk in chunks]
    rows = sorted(itertools.chain(*mine), key=lambda row: (row["place"], row["pair_id"]))
    line: dict[str, Any] = {"name": shard.name, "split": shard.split, "samples": len(rows)}
    write = shards.write_tar if division.format == "webdataset" else shards.write_parquet
    try:
        data = write(_samples(rows, output, options), division.columns)
        division.fence()
        files.write_bytes(uris.join(output, division.format, shard.name), data, options)
    except RowError as error:
        return _fault(shard.name, str(error), error)
    return line | {"fault": None, "bytes": len(data), "sha256": codec.sha256(data)}


def _samples(
    rows: list[dict[str, Any]], output: str, options: files.StorageOptions
) -> Iterator[shards.Sample]:
    """Yield records with their images, in order. Only ``THREADS`` images are fetched ahead.

    Raises:
        RowError: an image is missing, or is not the one that was recorded.
    """

    def fetch(row: dict[str, Any]) -> shards.Sample:
        if not records.is_image_name(row["file_name"] or ""):
            text = f"file_name {row['file_name']!r}: leads out of the images; see jobs.verify"
            raise RowError("read_failed", text)
        uri = uris.join(output, row["file_name"])
        data = files.read_bytes(uri, options)
        if codec.sha256(data) != row["sha256"]:
            raise RowError("read_failed", f"{uris.redact(uri)}: is not the image that was recorded")
        return row, data

    left = iter(rows)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(itertools.islice(left, THREADS)):
            yield from pool.map(fetch, some)
