"""Which images go into which shard.

All ok records are packed. Within a split they are ordered by a hash of their ``pair_id``. This
mixes classes and styles, and every packing of the same records has the same order. The shards of a
split hold about the same number of bytes.
"""

import array
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.errors import RowError
from pipeline.data.names import is_name
from pipeline.data.output import fences, records, shards
from pipeline.data.storage import files

UNNAMED = {"webdataset": "", "parquet": "train"}
"""Split of the pairs without one, by format: Hugging Face has no data outside a split."""

MOST_LICENCES = 1000
"""Different licences that are counted for the card."""

CHUNK = 65_536
"""Fewest records in a table that ``ok_records`` yields, the last table aside."""

COLUMNS = (*shards.FIELDS, "file_name", "split", "bytes", "sha256")
"""Record columns that packing reads. If a value of any of them changes, all shards are rebuilt."""


@dataclass(frozen=True)
class ShardRange:
    """The pairs of one shard: those of a split with ``first <= place <= last``.

    Attributes:
        name: the shard's file name, relative to the format's folder.
        split: empty for webdataset's pairs without a split.
        first: lowest place, see ``place_of``.
        last: highest place.
    """

    name: str
    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Facts:
    """Counts of the images that are packed.

    Attributes:
        splits: images of each split.
        originals: those that are copies of their content.
        licences: images of each licence, if there is a column ``license``.
    """

    splits: dict[str, int]
    originals: int
    licences: dict[str, int]


@dataclass(frozen=True)
class Packing:
    """How the ok records of an output become shards.

    Attributes:
        format: ``webdataset`` or ``parquet``.
        shard_bytes: approximate image bytes of a shard.
        samples: number of images.
        digest: SHA-256 over everything that is packed.
        columns: what the shards hold beside images and ``shards.FIELDS``.
        ranges: one for each shard.
        facts: counts for the card.
        fence: called before each write; raises if another job has taken the output over.
    """

    format: str
    shard_bytes: int
    samples: int
    digest: str
    columns: shards.Columns
    ranges: tuple[ShardRange, ...]
    facts: Facts
    fence: Callable[[], None] = fences.unfenced


def place_of(pair_id: str) -> int:
    """Return a pair's place in the order of its split: 0 to 2^64 - 1."""
    return _hash(pair_id)


def _hash(text: str) -> int:
    """Return 64 bits that are the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def divide(output: str, form: str, shard_bytes: int, options: files.StorageOptions) -> Packing:
    """Read all records once and divide the ok ones into shards.

    Keeps 24 bytes for each record. Every label counts as a class, even if all of its pairs failed:
    a retry must not renumber the other classes.

    Raises:
        RowError: the records cannot be read.
    """
    lineage = records.lineage_of(output, options)
    wanted = [*COLUMNS, *lineage.credits]
    places: dict[str, array.array[int]] = {}
    sizes: dict[str, array.array[int]] = {}
    digests = array.array("Q")
    labels: set[str] = set()
    licences: Counter[str] = Counter()
    originals = 0
    for row in records.iterate(output, options, [*wanted, "status"]):
        if row["label"] is not None and is_name(row["label"]):
            labels.add(row["label"])
        if row["status"] != "ok":
            continue
        if row["bytes"] is None:
            text = f"the record of {row['pair_id']} does not say how large its image is"
            raise RowError("read_failed", f"{text}; see jobs.verify")
        split = row["split"] or UNNAMED[form]
        places.setdefault(split, array.array("Q")).append(place_of(row["pair_id"]))
        sizes.setdefault(split, array.array("Q")).append(row["bytes"])
        digests.append(_hash(json.dumps([row[name] for name in wanted], default=str)))
        originals += not row["style_uri"]
        if "license" in row and (row["license"] in licences or len(licences) < MOST_LICENCES):
            licences[str(row["license"] or "")] += 1
    columns = shards.columns_of(labels, lineage)
    named = [] if [*columns.names] == [*columns.classes] else [columns.names]
    digest = hashlib.sha256(json.dumps([wanted, columns.classes, *named]).encode())
    digest.update(np.sort(np.asarray(digests, np.uint64)).tobytes())
    ranges: list[ShardRange] = []
    for split in sorted(places):
        starts = cut(np.asarray(places[split], np.uint64), np.asarray(sizes[split]), shard_bytes)
        ranges += _ranges(form, split, [0, *starts.tolist(), 2**64])
    splits = {split: len(found) for split, found in sorted(places.items())}
    facts = Facts(splits, originals, dict(licences.most_common()))
    return Packing(
        form, shard_bytes, len(digests), digest.hexdigest(), columns, tuple(ranges), facts
    )


def _ranges(form: str, split: str, bounds: list[int]) -> Iterator[ShardRange]:
    count = len(bounds) - 1
    for number in range(count):
        name = f"{split}-{number:06d}.tar" if split else f"{number:06d}.tar"
        if form == "parquet":
            name = f"data/{split}-{number:05d}-of-{count:05d}.parquet"
        yield ShardRange(name, split, bounds[number], bounds[number + 1] - 1)


def cut(
    places: npt.NDArray[np.uint64], sizes: npt.NDArray[Any], shard_bytes: int
) -> npt.NDArray[np.uint64]:
    """Choose where the shards of a split begin, so that they hold about equal numbers of bytes.

    There are as few shards as ``shard_bytes`` allows. A shard exceeds it by less than one image,
    and none is empty.

    Args:
        places: (N,) places of the pairs, in any order.
        sizes: (N,) bytes of their images.
        shard_bytes: approximate bytes of a shard.

    Returns:
        The first place of each shard but the first one.
    """
    order = np.argsort(places)
    filled = np.cumsum(sizes[order], dtype=np.float64)
    count = int(np.ceil(filled[-1] / shard_bytes))
    ends = np.searchsorted(filled, filled[-1] * np.arange(1, count) / max(count, 1)) + 1
    starts: npt.NDArray[np.uint64] = places[order][np.unique(ends[ends < len(order)])]
    return starts


def ok_records(
    output: str, form: str, options: files.StorageOptions, credits: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Yield the ok records in tables of about ``CHUNK`` rows, each sorted by place.

    The tables have ``COLUMNS``, ``credits`` and ``place``; ``split`` is as in ``ShardRange``.

    Raises:
        RowError: the records cannot be read.
    """
    waiting: list[pa.RecordBatch] = []
    for batch in records.batches(output, options, [*COLUMNS, *credits], "ok"):
        waiting.append(batch)
        if sum(map(len, waiting)) >= CHUNK:
            yield _in_order(waiting, form)
            waiting = []
    if waiting:
        yield _in_order(waiting, form)


def _in_order(batches: list[pa.RecordBatch], form: str) -> pa.Table:
    table = pa.Table.from_batches(batches)
    places = pa.array(map(place_of, table["pair_id"].to_pylist()), pa.uint64())
    splits = pc.fill_null(table["split"], UNNAMED[form])
    table = table.set_column(table.schema.get_field_index("split"), "split", splits)
    return table.append_column("place", places).sort_by(
        [("place", "ascending"), ("pair_id", "ascending")]
    )


def select(table: pa.Table, shard: ShardRange) -> pa.Table:
    """Return the rows of a table from ``ok_records`` that belong to a shard."""
    places = table["place"].to_numpy()
    begin = int(np.searchsorted(places, np.uint64(shard.first), side="left"))
    end = int(np.searchsorted(places, np.uint64(shard.last), side="right"))
    some = table.slice(begin, end - begin)
    return some.filter(pc.equal(some["split"], shard.split))
