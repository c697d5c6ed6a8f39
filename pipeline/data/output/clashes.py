"""Rows of the plan that clash with the records of an output.

A job skips the pairs that are recorded, which it knows by their ``pair_id``. If a ``pair_id`` now
stands for another row, the job would pass off one picture as another. If a row has the file name of
another pair's image, the job would overwrite that image.
"""

import posixpath
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.data.ids import hash_ids
from pipeline.data.manifest import row_keys
from pipeline.data.names import digest_of, file_key
from pipeline.data.output import records
from pipeline.data.storage import files, filesystems, uris
from pipeline.data.words import counted
from pipeline.settings import SettingError, StyleSettings, in_short

COLUMNS = ("pair_id", "status", "file_name", *row_keys.COLUMNS)
"""Record columns that are compared with the plan."""

_PLANNED = ("pair_id", "manifest_row", "file_stem", "overrides", *row_keys.COLUMNS[:-1])


@dataclass(frozen=True)
class _Hashes:
    """The plan's rows as hashes, 64 bytes each, so that a million rows fit in the driver.

    Attributes:
        ids: of the pair ids, sorted.
        keys: of what each image is made from (``row_keys``), in the order of ``ids``.
        rows: row numbers in the manifest, in the order of ``ids``.
        stems: of the file names without ending, sorted.
        stem_ids: of the pair ids, in the order of ``stems``.
        stem_rows: row numbers in the manifest, in the order of ``stems``.
        digests: of a derived id's digest with the row's key, sorted; 0 for other ids.
        digest_rows: row numbers in the manifest, in the order of ``digests``.
    """

    ids: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    stems: npt.NDArray[np.int64]
    stem_ids: npt.NDArray[np.int64]
    stem_rows: npt.NDArray[np.int64]
    digests: npt.NDArray[np.int64]
    digest_rows: npt.NDArray[np.int64]


class Clashes:
    """Finds clashes among the records given to ``look``; ``refuse`` reports them.

    Args:
        plan: directory of the plan. It is read when the first record comes.
        options: storage options by scheme.
        style: the job's settings.
        base: directory to which the manifest's relative URIs are relative.
    """

    def __init__(
        self, plan: str, options: files.StorageOptions, style: StyleSettings, base: str
    ) -> None:
        self._plan, self._options, self._style, self._base = plan, options, style, base
        self._hashes: _Hashes | None = None
        self._found: set[int] = set()
        self._first: tuple[int, dict[str, Any]] | None = None

    def look(self, batch: pa.RecordBatch) -> None:
        """Compare a batch of records that has ``COLUMNS`` with the plan.

        Only ok records can clash: a failed pair has no image.
        """
        made = batch.filter(pc.equal(batch["status"], "ok"))
        for start in range(0, len(made), records.ROWS_AT_ONCE):
            self._compare(made.slice(start, records.ROWS_AT_ONCE).to_pylist())

    def _compare(self, made: list[dict[str, Any]]) -> None:
        if self._hashes is None:
            self._hashes = self._read_plan()
        plan = self._hashes
        ids = hash_ids(record["pair_id"] for record in made)
        stems = hash_ids(_stem_key(record["file_name"]) for record in made)
        same_pair, same_file = _places(ids, plan.ids), _places(stems, plan.stems)
        for index, record in enumerate(made):
            pair, file = int(same_pair[index]), int(same_file[index])
            if pair >= 0 and plan.keys[pair] != self._key(record, int(plan.keys[pair])):
                self._add(int(plan.rows[pair]), record)
            elif file >= 0 and plan.stem_ids[file] != ids[index]:
                self._add(int(plan.stem_rows[file]), record)
            elif pair < 0 and (row := self._renamed(record, plan)) is not None:
                self._add(row, record)

    def _renamed(self, record: dict[str, Any], plan: _Hashes) -> int | None:
        """Return the row of a record whose pair an earlier version named otherwise."""
        if not digest_of(record["pair_id"]):
            return None
        digest = _digest_key(record["pair_id"], self._key(record, 0))
        place = int(_places(np.array([digest], np.int64), plan.digests)[0])
        return int(plan.digest_rows[place]) if place >= 0 else None

    def _key(self, record: dict[str, Any], otherwise: int) -> int:
        try:
            return row_keys.key_of_record(record, self._base)
        except (ValueError, KeyError, TypeError):  # a damaged record is reported by jobs.verify
            return otherwise

    def _add(self, row: int, record: dict[str, Any]) -> None:
        self._found.add(row)
        if self._first is None or row < self._first[0]:
            self._first = row, record

    def refuse(self, output: str) -> None:
        """Raise if any clash was found.

        Raises:
            SettingError: names the first row of the manifest that clashes, and how many do.
        """
        if self._first is None:
            return
        number, record = self._first
        (row,) = self._scan(pc.field("manifest_row") == number).to_table().to_pylist()
        what = self._difference(row, record)
        more = len(self._found) - 1
        others = f" (and {counted(more, 'more row')})" if more else ""
        raise SettingError(
            f"output {uris.redact(output)}: manifest row {number}{others} {what}; the job "
            "has not started: choose another output, give these rows another pair_id or "
            "output_name, or use --overwrite; if the pictures only moved, see 'Rows that clash' in "
            "docs/troubleshooting.md"
        )

    def _difference(self, row: dict[str, Any], record: dict[str, Any]) -> str:
        named, made = row["pair_id"], record["pair_id"]
        if named != made and digest_of(named) and digest_of(named) == digest_of(made):
            return (
                f"(pair_id {in_short(named)}) is done there as {in_short(made)}, as an earlier "
                "version named it, and would be done again"
            )
        if named != made:
            return (
                f"(pair_id {in_short(named)}) would overwrite {record['file_name']}, "
                f"the image of pair_id {in_short(made)}"
            )
        asked = row_keys.parts_of_plan(row, self._style, self._base)
        had = row_keys.parts_of_record(record, self._base)
        name = next(name for name in asked if asked[name] != had[name])
        return (
            f"has pair_id {in_short(named)}, whose image was made with {name} = "
            f"{in_short(had[name])}, not {in_short(asked[name])}"
        )

    def _read_plan(self) -> _Hashes:
        ids, keys, rows, stems, digests = [], [], [], [], []
        for batch in self._scan(None).to_batches():
            for start in range(0, len(batch), records.ROWS_AT_ONCE):
                some = batch.slice(start, records.ROWS_AT_ONCE).to_pylist()
                found = [row_keys.key_of_plan(row, self._style, self._base) for row in some]
                keys.append(np.array(found, np.int64))
                ids.append(hash_ids(row["pair_id"] for row in some))
                names = (row["pair_id"] for row in some)
                digests.append(np.array(list(map(_digest_key, names, found)), np.int64))
                rows.append(np.array([row["manifest_row"] for row in some], np.int64))
                # A refused row has no file: no image has the empty name.
                stems.append(hash_ids(file_key(row["file_stem"] or "") for row in some))
        every, numbers, file_names, named = map(np.concatenate, (ids, rows, stems, digests))
        by_id, by_stem, by_digest = np.argsort(every), np.argsort(file_names), np.argsort(named)
        return _Hashes(
            ids=every[by_id],
            keys=np.concatenate(keys)[by_id],
            rows=numbers[by_id],
            stems=file_names[by_stem],
            stem_ids=every[by_stem],
            stem_rows=numbers[by_stem],
            digests=named[by_digest],
            digest_rows=numbers[by_digest],
        )

    def _scan(self, chosen: pc.Expression | None) -> pyarrow.dataset.Scanner:
        fs, path = filesystems.arrow_filesystem(self._plan, self._options)
        plan = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
        return plan.scanner(columns=list(_PLANNED), filter=chosen)


def _stem_key(file_name: str) -> str:
    """Return the key of ``images/STEM.png``, equal for names that some file systems confuse."""
    return file_key(posixpath.splitext(file_name)[0].removeprefix(f"{records.IMAGES}/"))


def _digest_key(pair_id: str, key: int) -> int:
    """Return a derived id's digest with what its row asks for, as a number; 0 for other ids.

    Both count, since a user's own ids may end in digests of something else.
    """
    digest = digest_of(pair_id)
    return hash((digest, key)) if digest else 0


def _places(hashes: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the index of each of ``hashes`` in ``known``, which is sorted; -1 if not there."""
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    return np.where(known[places] == hashes, places, -1)
