"""Rows of a plan that ask for something else than what an output has made for them.

A job leaves recorded pairs alone, and knows them by their ``pair_id``. Where that stands for
another row than before, or where another pair's image has the name of a row's, going on would pass
off one picture as another, or write over it.
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
from pipeline.data.storage import files, uris
from pipeline.settings import SettingError, StyleSettings, in_short

COLUMNS = ("pair_id", "status", "file_name", *row_keys.COLUMNS)
"""What must be known of the records."""

_PLANNED = ("pair_id", "manifest_row", "file_stem", "overrides", *row_keys.COLUMNS[:-1])


@dataclass(frozen=True)
class _Hashes:
    """The plan's rows as numbers, 64 bytes each, so that a million fit in a driver.

    ``ids``, ``stems`` and ``digests`` are sorted; the arrays after each are in its order. ``rows``
    are numbers of rows in the manifest. ``digests`` stand for a derived id's digest and what the
    row asks for.
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
    """What is found among the records that ``look`` is shown; ``refuse`` says it.

    Args:
        plan: directory of the plan. Nothing of it is read before there is a record.
        style: the job's settings.
        base: directory that the manifest's relative URIs are relative to.
    """

    def __init__(
        self, plan: str, options: files.StorageOptions, style: StyleSettings, base: str
    ) -> None:
        self._plan, self._options, self._style, self._base = plan, options, style, base
        self._hashes: _Hashes | None = None
        self._found: set[int] = set()
        self._first: tuple[int, dict[str, Any]] | None = None

    def look(self, batch: pa.RecordBatch) -> None:
        """Compare records, of which ``COLUMNS`` are there, with the plan.

        Only ok ones: an error made nothing that could be taken for another's.
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
        """The row that is this record's pair by another name, as earlier versions made names."""
        if not digest_of(record["pair_id"]):
            return None
        digest = _digest_key(record["pair_id"], self._key(record, 0))
        place = int(_places(np.array([digest], np.int64), plan.digests)[0])
        return int(plan.digest_rows[place]) if place >= 0 else None

    def _key(self, record: dict[str, Any], otherwise: int) -> int:
        try:
            return row_keys.key_of_record(record, self._base)
        except (ValueError, KeyError, TypeError):  # damaged: that is for an audit to say
            return otherwise

    def _add(self, row: int, record: dict[str, Any]) -> None:
        self._found.add(row)
        if self._first is None or row < self._first[0]:
            self._first = row, record

    def refuse(self, output: str) -> None:
        """End the job if there are any.

        Raises:
            SettingError: names the manifest's first such row, and how many there are.
        """
        if self._first is None:
            return
        number, record = self._first
        (row,) = self._scan(pc.field("manifest_row") == number).to_table().to_pylist()
        what = self._difference(row, record)
        more = len(self._found) - 1
        beside = f" (and so {'does' if more == 1 else 'do'} {more} more)" if more else ""
        raise SettingError(
            f"output {uris.redact(output)}: manifest row {number}{beside} {what}; nothing was "
            "begun: choose another output, give such rows another pair_id or output_name, or "
            "--overwrite; for pictures that only moved see 'Rows that clash' in "
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
                f"(pair_id {in_short(named)}) would write over {record['file_name']}, "
                f"which was made of pair_id {in_short(made)}"
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
                # Refused rows have no file; no image has the empty name.
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
        fs, path = files.arrow_filesystem(self._plan, self._options)
        plan = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
        return plan.scanner(columns=list(_PLANNED), filter=chosen)


def _stem_key(file_name: str) -> str:
    """What ``images/STEM.png`` is known by, where letters' case may not count."""
    return file_key(posixpath.splitext(file_name)[0].removeprefix(f"{records.IMAGES}/"))


def _digest_key(pair_id: str, key: int) -> int:
    """A derived id's digest with what its row asks for, as a number; 0 for an id of another form.

    Both, since a user's own ids may end in digests of something else.
    """
    digest = digest_of(pair_id)
    return hash((digest, key)) if digest else 0


def _places(hashes: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of ``hashes`` is in ``known``, which is sorted; -1 where it is not."""
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    return np.where(known[places] == hashes, places, -1)
