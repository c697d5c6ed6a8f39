"""The folder of a packing: what its shards are called, and the index that lists them.

    OUTPUT/webdataset/  [SPLIT-]000000.tar ...  classes.json  README.md  index.json
    OUTPUT/parquet/     data/SPLIT-00000-of-00012.parquet ...  README.md  index.json

An unfinished index (``digest`` null) is written before the first shard and replaced after the last
one. So an unfinished index, or none, tells that a killed job left the shards.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.data.errors import RowError
from pipeline.data.manifest.features import CARD
from pipeline.data.output import records
from pipeline.data.storage import files, local, uris
from pipeline.settings import SettingError

FORMATS = ("webdataset", "parquet")
"""Formats that consist of shards; each has a folder of its name in the output."""

INDEX, CLASSES = "index.json", "classes.json"
"""Files beside the shards; only webdataset has the second one."""

SHARD_NAMES = {
    "webdataset": re.compile(r"(.+-)?\d{6,7}\.tar"),
    "parquet": re.compile(r"data/.+-\d{5,}-of-\d{5,}\.parquet"),
}
"""Names of shards, by format, relative to the format's folder."""


class ForeignIndexError(RowError):
    """An ``index.json`` that this program did not write."""


@dataclass(frozen=True)
class Shard:
    """An entry of the index. ``bytes`` and ``sha256`` are those of the shard's file."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The content of a format's folder. It is unfinished while ``digest`` is None."""

    format: str
    shard_bytes: int
    digest: str | None = None
    classes: dict[str, int] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    def files(self) -> dict[str, tuple[int, str]]:
        """Return size in bytes and SHA-256 of each file that the folder must have, by name."""
        file_names = {shard.name: (shard.bytes, shard.sha256) for shard in self.shards}
        if self.classes and self.format == "webdataset":
            data = classes_file(self.classes)
            file_names[CLASSES] = (len(data), hashlib.sha256(data).hexdigest())
        return file_names


def read_index(folder: str, options: files.StorageOptions) -> Index | None:
    """Read the index of a format's folder; None if there is none.

    Raises:
        ForeignIndexError: this program did not write it.
        RowError: it cannot be read.
    """
    uri = uris.join(folder, INDEX)
    try:
        found = json.loads(files.read_bytes(uri, options))
        found["shards"] = tuple(Shard(**shard) for shard in found["shards"])
        index = Index(**found)
        if type(index.shard_bytes) is not int or index.shard_bytes < 1:
            raise ValueError(f"shards of {index.shard_bytes!r} bytes")
        return index
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = uris.redact(uri)
        raise ForeignIndexError(
            "read_failed",
            f"{shown}: was not written by this program; delete its folder, or choose another "
            "output",
        ) from error


def own_index(output: str, form: str, options: files.StorageOptions) -> Index | None:
    """Read the index of a format's folder; None if there is none, or a foreign one.

    Raises:
        RowError: the index cannot be read.
    """
    try:
        return read_index(uris.join(output, form), options)
    except ForeignIndexError:
        return None


def write_index(folder: str, index: Index, options: files.StorageOptions) -> None:
    """Write ``classes.json``, if there are classes, and then ``index.json``.

    Raises:
        RowError: as ``files.write_bytes``.
    """
    if CLASSES in index.files():
        files.write_bytes(uris.join(folder, CLASSES), classes_file(index.classes), options)
    records.write_json(uris.join(folder, INDEX), dataclasses.asdict(index), options)


def classes_file(classes: Mapping[str, int]) -> bytes:
    """Return the content of ``classes.json``: the index of each label."""
    return (json.dumps(classes, indent=2) + "\n").encode()


def is_stale(name: str, index: Index) -> bool:
    """Return whether a file of the folder is left from an earlier packing."""
    ours = name != INDEX and is_own(name, index.format)
    return ours and name not in index.files()


def is_own(name: str, form: str) -> bool:
    """Return whether packing gives files of a format's folder such a name, half-written or not."""
    listed = name in (INDEX, CLASSES) or SHARD_NAMES[form].fullmatch(name) is not None
    return listed or local.is_leftover(name)


def is_empty(output: str, form: str, options: files.StorageOptions) -> bool:
    """Return whether a format's folder holds nothing but half-written files and a card.

    Raises:
        RowError: it cannot be listed.
    """
    found = files.sizes(uris.join(output, form), options)
    return all(name == CARD or local.is_leftover(name) for name in found)


def refuse_foreign(output: str, form: str, options: files.StorageOptions) -> None:
    """Refuse a format's folder that holds files of another program.

    Raises:
        SettingError: it holds files but no index. Half-written files do not count.
        RowError: it cannot be read.
    """
    folder = uris.join(output, form)
    if not is_empty(output, form, options) and own_index(output, form, options) is None:
        raise SettingError(
            f"format: {uris.redact(folder)} holds files but no {INDEX} of an earlier job, so "
            "nothing there is replaced; choose another output"
        )
