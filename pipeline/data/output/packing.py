"""Which images go into which shard, what the shards are called, and the index beside them.

    OUTPUT/webdataset/  [SPLIT-]000000.tar ...  classes.json  index.json
    OUTPUT/parquet/     data/SPLIT-00000-of-00012.parquet ...  index.json

All ok records are packed. Within a split they are ordered by a hash of their ``pair_id``: classes
and styles are mixed, and the order is the same wherever and however often it is made. The shards of
a split hold about the same number of bytes.

The index is written last, and says so (``digest`` null) before the first shard is: shards without a
finished index were left behind by a killed run.
"""

import array
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.errors import RowError
from pipeline.data.names import is_name
from pipeline.data.output import lease, records, shards
from pipeline.data.storage import files, uris
from pipeline.settings import SettingError

FORMATS = ("webdataset", "parquet")
"""Formats made of shards; each has a folder of its name in the output."""

INDEX, CLASSES = "index.json", "classes.json"

UNNAMED = {"webdataset": "", "parquet": "train"}
"""The split of pairs without one: Hugging Face has no data without."""

CHUNK = 65_536
"""Records of one table of ``ok_records``."""

COLUMNS = (*shards.FIELDS, "file_name", "split", "bytes", "sha256")
"""What packing reads of a record. If any of it changes, the shards are made anew."""

SHARD_NAMES = {
    "webdataset": re.compile(r"(.+-)?\d{6,}\.tar"),
    "parquet": re.compile(r"data/.+-\d{5,}-of-\d{5,}\.parquet"),
}


class ForeignIndexError(RowError):
    """An ``index.json`` that this program did not write."""


@dataclass(frozen=True)
class Part:
    """What goes into one shard: the pairs of a split with ``first <= place <= last``.

    ``name`` is the shard's, relative to the format's folder; ``split`` is empty where pairs have
    none.
    """

    name: str
    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Packing:
    """How the ok records of an output become shards of about ``shard_bytes``.

    ``digest`` stands for all that is packed.
    """

    format: str
    shard_bytes: int
    samples: int
    digest: str
    classes: dict[str, int]
    parts: tuple[Part, ...]
    fence: Callable[[], None] = lease.unfenced
    """To be called before each write. Raises if the output is another run's by now."""


@dataclass(frozen=True)
class Shard:
    """A line of the index. ``bytes`` and ``sha256`` are the file's."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What is in a format's folder. Unfinished as long as ``digest`` is None."""

    format: str
    shard_bytes: int
    digest: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    def files(self) -> dict[str, tuple[int, str]]:
        """Bytes and SHA-256 of each file that must be there, by its name in the folder."""
        file_names = {shard.name: (shard.bytes, shard.sha256) for shard in self.shards}
        if self.classes and self.format == "webdataset":
            data = classes_file(self.classes)
            file_names[CLASSES] = (len(data), hashlib.sha256(data).hexdigest())
        return file_names


def place_of(pair_id: str) -> int:
    """Where a pair stands in the order of its split."""
    return _hash(pair_id)


def _hash(text: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def plan(output: str, form: str, shard_bytes: int, options: files.StorageOptions) -> Packing:
    """Read all records once and deal the ok ones out. 24 bytes of each are kept meanwhile.

    Every label counts as a class, also where all of its pairs failed: a retry must not renumber
    the others.
    """
    places: dict[str, array.array[int]] = {}
    sizes: dict[str, array.array[int]] = {}
    digests = array.array("Q")
    labels: set[str] = set()
    for row in records.iterate(output, options, [*COLUMNS, "status"]):
        if row["label"] is not None and is_name(row["label"]):
            labels.add(row["label"])
        if row["status"] != "ok":
            continue
        split = row["split"] or UNNAMED[form]
        places.setdefault(split, array.array("Q")).append(place_of(row["pair_id"]))
        sizes.setdefault(split, array.array("Q")).append(row["bytes"])
        digests.append(_hash(json.dumps([row[name] for name in COLUMNS])))
    classes = shards.class_indices(labels)
    digest = hashlib.sha256(json.dumps([COLUMNS, classes]).encode())
    digest.update(np.sort(np.asarray(digests, np.uint64)).tobytes())
    parts: list[Part] = []
    for split in sorted(places):
        starts = cut(np.asarray(places[split], np.uint64), np.asarray(sizes[split]), shard_bytes)
        parts += _parts(form, split, [0, *starts.tolist(), 2**64])
    return Packing(form, shard_bytes, len(digests), digest.hexdigest(), classes, tuple(parts))


def _parts(form: str, split: str, bounds: list[int]) -> Iterator[Part]:
    count = len(bounds) - 1
    for number in range(count):
        name = f"{split}-{number:06d}.tar" if split else f"{number:06d}.tar"
        if form == "parquet":
            name = f"data/{split}-{number:05d}-of-{count:05d}.parquet"
        yield Part(name, split, bounds[number], bounds[number + 1] - 1)


def ok_records(output: str, form: str, options: files.StorageOptions) -> Iterator[pa.Table]:
    """``COLUMNS`` of the ok records and their ``place``, ordered by it, ``CHUNK`` or so at a time.

    ``split`` is as in ``Part``.
    """
    waiting: list[pa.RecordBatch] = []
    for batch in records.batches(output, options, list(COLUMNS), "ok"):
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


def select(table: pa.Table, part: Part) -> pa.Table:
    """The rows of a table of ``ok_records`` that belong to a part."""
    places = table["place"].to_numpy()
    begin = int(np.searchsorted(places, np.uint64(part.first), side="left"))
    end = int(np.searchsorted(places, np.uint64(part.last), side="right"))
    some = table.slice(begin, end - begin)
    return some.filter(pc.equal(some["split"], part.split))


def cut(
    places: npt.NDArray[np.uint64], sizes: npt.NDArray[Any], shard_bytes: int
) -> npt.NDArray[np.uint64]:
    """The places at which shards after the first begin, so that they hold about equal bytes.

    As few shards as can be of ``shard_bytes``; a shard is larger by less than one image. None is
    empty.
    """
    order = np.argsort(places)
    filled = np.cumsum(sizes[order], dtype=np.float64)
    count = int(np.ceil(filled[-1] / shard_bytes))
    ends = np.searchsorted(filled, filled[-1] * np.arange(1, count) / max(count, 1)) + 1
    starts: npt.NDArray[np.uint64] = places[order][np.unique(ends[ends < len(order)])]
    return starts


def read_index(folder: str, options: files.StorageOptions) -> Index | None:
    """The index of a format's folder; None if there is none.

    Raises:
        ForeignIndexError: it is none of ours.
        RowError: it cannot be read.
    """
    uri = uris.join(folder, INDEX)
    try:
        found = json.loads(files.read_bytes(uri, options))
        found["shards"] = tuple(Shard(**shard) for shard in found["shards"])
        return Index(**found)
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except (ValueError, KeyError, TypeError) as error:
        shown = uris.redact(uri)
        raise ForeignIndexError(
            "read_failed",
            f"{shown}: was not written by this program; delete its folder, or choose another "
            "output",
        ) from error


def own_index(output: str, form: str, options: files.StorageOptions) -> Index | None:
    """The index of a format's folder, if the folder is ours.

    Raises:
        RowError: that is not known, since the index cannot be read.
    """
    try:
        return read_index(uris.join(output, form), options)
    except ForeignIndexError:
        return None


def write_index(folder: str, index: Index, options: files.StorageOptions) -> None:
    """Write ``index.json``, and ``classes.json`` before it.

    Raises:
        RowError: as ``storage.write_bytes``.
    """
    if CLASSES in index.files():
        files.write_bytes(uris.join(folder, CLASSES), classes_file(index.classes), options)
    records.write_json(uris.join(folder, INDEX), dataclasses.asdict(index), options)


def classes_file(classes: Mapping[str, int]) -> bytes:
    """The content of ``classes.json``: the index of each label."""
    return (json.dumps(classes, indent=2) + "\n").encode()


def is_stale(name: str, index: Index) -> bool:
    """Whether a file of the folder is a shard, or list of classes, of an earlier packing."""
    ours = name != INDEX and is_own(name, index.format)
    return ours and name not in index.files()


def is_own(name: str, form: str) -> bool:
    """Whether a file of a format's folder has a name that packing gives, or is half-written."""
    listed = name in (INDEX, CLASSES) or SHARD_NAMES[form].fullmatch(name) is not None
    return listed or files.is_leftover(name)


def is_empty(output: str, form: str, options: files.StorageOptions) -> bool:
    """Whether there is nothing in a format's folder but what was left half-written.

    Raises:
        RowError: it cannot be listed.
    """
    return all(map(files.is_leftover, files.sizes(uris.join(output, form), options)))


def refuse_foreign(output: str, form: str, options: files.StorageOptions) -> None:
    """Refuse a format's folder in which somebody else's files lie.

    Raises:
        SettingError: it holds files but no index. Half-written ones are a killed run's.
        RowError: it cannot be read.
    """
    folder = uris.join(output, form)
    if not is_empty(output, form, options) and own_index(output, form, options) is None:
        raise SettingError(
            f"format: {uris.redact(folder)} holds files but no {INDEX} of an earlier job, so "
            "nothing there is replaced; choose another output"
        )
