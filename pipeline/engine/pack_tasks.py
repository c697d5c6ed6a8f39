"""What Ray Data's tasks do in packing: deal records out to shards, write shards.

Apart from ``pack``, which brings in torch: that would cost each task's process seconds and hundreds
of MB.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.data import images, packing, records, shards, storage
from pipeline.data.errors import RowError

THREADS = 16
"""Images of a shard that are fetched at once."""

DEALT = pa.schema(
    [*(records.RECORD_SCHEMA.field(name) for name in packing.COLUMNS), ("shard", pa.string())]
)

WRITTEN = pa.schema(
    [
        ("name", pa.string()),
        ("split", pa.string()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("fault", pa.string()),
    ]
)
"""A line of the index for each shard; where ``fault`` says why, there is no such shard."""


def deal(files: pa.Table, packed: packing.Packing, options: storage.StorageOptions) -> pa.Table:
    """Files of records -> their ok records, each with the shard that it goes to."""
    rows: list[dict[str, Any]] = []
    for file in files["file"].to_pylist():
        found = storage.read_table(file, options).select([*packing.COLUMNS, "status"]).to_pylist()
        rows += [{**row, "shard": packed.shard_of(row)} for row in found if row["status"] == "ok"]
    return pa.Table.from_pylist(rows, schema=DEALT)


def write_shard(
    table: pa.Table, packed: packing.Packing, output: str, options: storage.StorageOptions
) -> pa.Table:
    """All records of one shard -> the shard, written, and its line of the index."""
    rows = sorted(
        table.to_pylist(), key=lambda row: (packing.place_of(row["pair_id"]), row["pair_id"])
    )
    name = rows[0]["shard"]
    split = packing.split_of(rows[0], packed.format)
    line: dict[str, Any] = {"name": name, "split": split, "samples": len(rows)}
    write = shards.write_tar if packed.format == "webdataset" else shards.write_parquet
    try:
        data = write(_samples(rows, output, options), packed.classes)
        storage.write_bytes(storage.join(output, packed.format, name), data, options)
        line |= {"bytes": len(data), "sha256": images.sha256(data)}
    except RowError as error:
        line["fault"] = str(error)
    return pa.Table.from_pylist([line], schema=WRITTEN)


def _samples(
    rows: list[dict[str, Any]], output: str, options: storage.StorageOptions
) -> Iterator[shards.Sample]:
    """Records with their images, in their order; some are fetched ahead, not all.

    Raises:
        RowError: an image is not there, or not as recorded.
    """

    def fetch(row: dict[str, Any]) -> shards.Sample:
        uri = storage.join(output, row["file_name"])
        data = storage.read_bytes(uri, options)
        if images.sha256(data) != row["sha256"]:
            raise RowError(
                "read_failed", f"{storage.redact(uri)}: is not the image that was recorded"
            )
        return row, data

    left = iter(rows)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(left, THREADS)):
            yield from pool.map(fetch, some)
