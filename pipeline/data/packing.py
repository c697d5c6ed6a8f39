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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data import records, shards, storage
from pipeline.data.errors import RowError
from pipeline.data.rows import is_name
from pipeline.settings import SettingError

FORMATS = ("webdataset", "parquet")
"""Formats made of shards; each has a folder of its name in the output."""

INDEX, CLASSES = "index.json", "classes.json"

COLUMNS = (*shards.FIELDS, "file_name", "split", "bytes", "sha256")
"""What packing reads of a record. If any of it changes, the shards are made anew."""

SHARD_NAMES = {
    "webdataset": re.compile(r"(.+-)?\d{6,}\.tar"),
    "parquet": re.compile(r"data/.+-\d{5,}-of-\d{5,}\.parquet"),
}


@dataclass(frozen=True)
class Packing:
    """How the ok records of an output become shards of about ``shard_bytes``.

    ``starts`` has for each split the place in the order at which each shard begins, but for the
    first. ``digest`` stands for all that is packed.
    """

    format: str
    shard_bytes: int
    samples: int
    digest: str
    classes: dict[str, int]
    starts: dict[str | None, npt.NDArray[np.uint64]]

    @property
    def shards(self) -> int:
        """How many there are."""
        return sum(len(starts) + 1 for starts in self.starts.values())

    def shard_of(self, row: Mapping[str, Any]) -> str:
        """The name of the shard that a record goes to, relative to the format's folder."""
        split = split_of(row, self.format)
        starts = self.starts[split]
        number = int(np.searchsorted(starts, np.uint64(place_of(row["pair_id"])), side="right"))
        if self.format == "parquet":
            return f"data/{split}-{number:05d}-of-{len(starts) + 1:05d}.parquet"
        return f"{number:06d}.tar" if split is None else f"{split}-{number:06d}.tar"


@dataclass(frozen=True)
class Shard:
    """A line of the index. ``bytes`` and ``sha256`` are the file's."""

    name: str
    split: str | None
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
        files = {shard.name: (shard.bytes, shard.sha256) for shard in self.shards}
        if self.classes and self.format == "webdataset":
            data = classes_file(self.classes)
            files[CLASSES] = (len(data), hashlib.sha256(data).hexdigest())
        return files


def place_of(pair_id: str) -> int:
    """Where a pair stands in the order of its split."""
    return _hash(pair_id)


def _hash(text: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def plan(output: str, form: str, shard_bytes: int, options: storage.StorageOptions) -> Packing:
    """Read all records once and deal the ok ones out. 24 bytes of each are kept meanwhile.

    Every label counts as a class, also where all of its pairs failed: a retry must not renumber
    the others.
    """
    places: dict[str | None, array.array[int]] = {}
    sizes: dict[str | None, array.array[int]] = {}
    digests = array.array("Q")
    labels: set[str] = set()
    for row in records.iterate(output, options, [*COLUMNS, "status"]):
        if row["label"] is not None and is_name(row["label"]):
            labels.add(row["label"])
        if row["status"] != "ok":
            continue
        split = split_of(row, form)
        places.setdefault(split, array.array("Q")).append(place_of(row["pair_id"]))
        sizes.setdefault(split, array.array("Q")).append(row["bytes"])
        digests.append(_hash(json.dumps([row[name] for name in COLUMNS])))
    classes = shards.class_indices(labels)
    digest = hashlib.sha256(json.dumps([COLUMNS, classes]).encode())
    digest.update(np.sort(np.asarray(digests, np.uint64)).tobytes())
    starts = {
        split: cut(np.asarray(places[split], np.uint64), np.asarray(sizes[split]), shard_bytes)
        for split in places
    }
    return Packing(form, shard_bytes, len(digests), digest.hexdigest(), classes, starts)


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


def read_index(folder: str, options: storage.StorageOptions) -> Index | None:
    """The index of a format's folder; None if there is none.

    Raises:
        RowError: it cannot be read, or is none of ours.
    """
    uri = storage.join(folder, INDEX)
    try:
        found = json.loads(storage.read_bytes(uri, options))
        found["shards"] = tuple(Shard(**shard) for shard in found["shards"])
        return Index(**found)
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except (ValueError, KeyError, TypeError) as error:
        shown = storage.redact(uri)
        raise RowError(
            "read_failed",
            f"{shown}: was not written by this program; delete its folder, or choose another "
            "output",
        ) from error


def has_index(output: str, form: str, options: storage.StorageOptions) -> bool:
    """Whether a job has been at work in a format's folder."""
    return storage.exists(storage.join(output, form, INDEX), options)


def write_index(folder: str, index: Index, options: storage.StorageOptions) -> None:
    """Write ``index.json``, and ``classes.json`` before it.

    Raises:
        RowError: as ``storage.write_bytes``.
    """
    if CLASSES in index.files():
        storage.write_bytes(storage.join(folder, CLASSES), classes_file(index.classes), options)
    records.write_json(storage.join(folder, INDEX), dataclasses.asdict(index), options)


def classes_file(classes: Mapping[str, int]) -> bytes:
    """The content of ``classes.json``: the index of each label."""
    return (json.dumps(classes, indent=2) + "\n").encode()


def is_stale(name: str, index: Index) -> bool:
    """Whether a file of the folder is a shard, or list of classes, of an earlier packing."""
    ours = name == CLASSES or SHARD_NAMES[index.format].fullmatch(name) is not None
    return ours and name not in index.files()


def refuse_foreign(output: str, form: str, options: storage.StorageOptions) -> None:
    """Refuse a format's folder in which somebody else's files lie.

    Raises:
        SettingError: it holds files but no index.
        RowError: it cannot be read.
    """
    folder = storage.join(output, form)
    if storage.sizes(folder, options) and not has_index(output, form, options):
        raise SettingError(
            f"format: {storage.redact(folder)} holds files but no {INDEX} of an earlier job, so "
            "nothing there is replaced; choose another output"
        )


def split_of(row: Mapping[str, Any], form: str) -> str | None:
    """The split whose shards a record goes to."""
    # Hugging Face calls a split without a name train.
    return "train" if row["split"] is None and form == "parquet" else row["split"]
