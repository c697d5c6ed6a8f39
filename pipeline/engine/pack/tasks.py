"""What Ray Data's tasks do in packing: gather the records of a shard and write it.

Apart from ``pack``, which brings in torch: that would cost each task's process seconds and hundreds
of MB.
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
"""A line of the index for each shard; where ``fault`` says why, there is no such shard."""


def write_shards(
    numbers: pa.Table,
    packed: dividing.Packing,
    chunks: list[Any],
    output: str,
    options: files.StorageOptions,
    board: Board,
) -> Iterator[pa.Table]:
    """Numbers of parts -> their shards, written, and a row of ``WRITTEN`` for each.

    Args:
        numbers: in column ``part``.
        chunks: references to the tables of ``dividing.ok_records``, which each node fetches once.
        board: learns which shard is under way, and gives up one that ends process after process.
    """
    for number in numbers["part"].to_pylist():
        part = packed.ranges[number]
        work = functools.partial(_write_shard, part, packed, chunks, output, options)
        lines = board.in_turn("packing", {part.name: work}, _given_up, "shard")
        (line,) = lines.values()
        board.add(int(line["fault"] is None), int(line["fault"] is not None))
        yield pa.Table.from_pylist([line], schema=WRITTEN)


def _given_up(name: str, fault: RowError) -> dict[str, Any]:
    return _fault(name, f"{name}: {fault}; a smaller shard_size takes less memory", fault)


def _fault(name: str, message: str, error: RowError) -> dict[str, Any]:
    return {"name": name, "fault_class": error.error_class, "fault": message}


def _write_shard(
    part: dividing.ShardRange,
    packed: dividing.Packing,
    chunks: list[Any],
    output: str,
    options: files.StorageOptions,
) -> dict[str, Any]:
    mine = [dividing.select(ray.get(chunk), part).to_pylist() for chunk in chunks]
    rows = sorted(itertools.chain(*mine), key=lambda row: (row["place"], row["pair_id"]))
    line: dict[str, Any] = {"name": part.name, "split": part.split, "samples": len(rows)}
    write = shards.write_tar if packed.format == "webdataset" else shards.write_parquet
    try:
        data = write(_samples(rows, output, options), packed.classes)
        packed.fence()
        files.write_bytes(uris.join(output, packed.format, part.name), data, options)
    except RowError as error:
        return _fault(part.name, str(error), error)
    return line | {"fault": None, "bytes": len(data), "sha256": codec.sha256(data)}


def _samples(
    rows: list[dict[str, Any]], output: str, options: files.StorageOptions
) -> Iterator[shards.Sample]:
    """Records with their images, in their order; some are fetched ahead, not all.

    Raises:
        RowError: an image is not there, or not as recorded.
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
