"""Planning a job: check every row of the manifest and write the rows in the plan's form.

A fault of one row stays with the row: the plan has it in ``fault_class`` and ``fault_message``, and
it becomes an error record.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from pipeline.data.ids import hash_ids
from pipeline.data.manifest import columns
from pipeline.data.manifest.lineage import ClassIds
from pipeline.data.manifest.manifest import Manifest, ManifestError
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.names import SPLIT_WORD, file_key
from pipeline.data.schemas import PLAN_SCHEMA
from pipeline.data.storage import failures, files, filesystems, tables, uris

CHUNK = 65_536
"""Rows of one file of the plan. Rows of equal style are brought together within a file."""

SLICE = 4_096
"""Rows that are Python objects at a time: these take a hundred times the memory of Arrow's."""

ROW_OF_GROUP = r"&row=[0-9]+(&item=[0-9]+)?$"
"""The end of a picture's URI inside a table (``file_parts``); without it the URI is a row group."""


@dataclass(frozen=True)
class Plan:
    """What is known of a plan that has been written.

    Attributes:
        rows: number of rows.
        faulty: number of rows with a fault.
        digest: SHA-256 of all pair ids in order.
        id_hashes: (rows,) hashes of the pair ids, 8 bytes each, so that a million rows fit in the
            driver.
        shapes: the different loads that sound rows ask for: the row's own ``image_size`` in
            pixels, or None, and its number of styles.
        split_words: number of images whose class or name contains a word like "train", which
            Hugging Face takes for a split, and the first of them.
        class_ids: id of each label; empty if the rows have none, or contradict each other.
        class_fault: how they do; empty if they do not.
    """

    rows: int
    faulty: int
    digest: str
    id_hashes: npt.NDArray[np.int64]
    shapes: frozenset[tuple[int | None, int]]
    split_words: tuple[int, str]
    class_ids: Mapping[str, int]
    class_fault: str

    def count_done(self, done: npt.NDArray[np.int64]) -> int:
        """Return how many rows have an id among these hashes (``hash_ids``)."""
        return int(np.isin(self.id_hashes, done).sum())


def write_plan(
    manifest: Manifest,
    target: str,
    options: files.StorageOptions,
    *,
    checker: RowChecker,
    limit: int | None,
) -> Plan:
    """Check the manifest and write the plan, with rows of equal style next to each other.

    Args:
        manifest: from ``open_manifest``.
        target: directory of the plan; what it holds is deleted first.
        options: storage options by scheme.
        checker: checks a row.
        limit: largest number of rows to take, from the first one; None for all.

    Raises:
        ManifestError: there are no rows, or two rows have the same ``pair_id`` or image file.
        RowError: the plan cannot be written.
    """
    files.delete(target, options)
    schema = pa.schema([*PLAN_SCHEMA, *columns.as_numbers(manifest.extra)])
    tally = _Tally(ClassIds(manifest.schema))
    try:
        parts = (
            pa.Table.from_pylist(tally.add(planned), schema=schema)
            for planned in planned_slices(manifest, checker, limit)
        )
        for index, chunk in enumerate(_chunks(parts)):
            part = uris.join(target, f"part-{index:05d}.parquet")
            tables.write_table(part, chunk.take(_order(chunk)), options)
    except ManifestError:
        raise
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        raise ManifestError(
            f"manifest {manifest.shown}: a column cannot be copied into the records "
            f"({failures.reason(error)}); leave it out"
        ) from error
    if not tally.ids:
        raise ManifestError(f"manifest {manifest.shown}: it has no rows")
    id_hashes, stem_hashes = np.concatenate(tally.ids), np.concatenate(tally.stems)
    for column, hashes in (("pair_id", id_hashes), ("file_stem", stem_hashes)):
        _refuse_duplicates(manifest, target, options, column, hashes)
    class_ids, class_fault = tally.class_ids.found()
    return Plan(
        rows=len(id_hashes),
        faulty=tally.faulty,
        digest=tally.digest.hexdigest(),
        id_hashes=id_hashes,
        shapes=frozenset(tally.shapes),
        split_words=(tally.split_words, tally.first_split_word),
        class_ids=class_ids,
        class_fault=class_fault,
    )


class _Tally:
    """Running totals over the planned rows; 16 bytes are kept for each row."""

    def __init__(self, class_ids: ClassIds) -> None:
        self.class_ids = class_ids
        self.faulty, self.digest = 0, hashlib.sha256()
        self.ids: list[npt.NDArray[np.int64]] = []
        self.stems: list[npt.NDArray[np.int64]] = []
        self.shapes: set[tuple[int | None, int]] = set()
        self.split_words, self.first_split_word = 0, ""

    def add(self, planned: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [row["pair_id"] for row in planned]
        stems = [row["file_stem"] for row in planned]
        self.faulty += sum(row["fault_class"] is not None for row in planned)
        self.digest.update("".join(f"{name}\n" for name in names).encode())
        self.ids.append(hash_ids(names))
        self.stems.append(hash_ids(file_key(stem) for stem in stems if stem))
        for row, stem in zip(planned, stems, strict=True):
            below = stem.removeprefix(f"{row['split']}/") if stem else ""
            if SPLIT_WORD.search(below):
                self.split_words += 1
                self.first_split_word = self.first_split_word or below
        self.shapes.update(_shape(row) for row in planned if row["fault_class"] is None)
        self.class_ids.add(planned)
        return planned


def _shape(row: dict[str, Any]) -> tuple[int | None, int]:
    overrides = row["overrides"]
    own = json.loads(overrides)["image_size"] if '"image_size"' in overrides else None
    return own, len(row["style_uri"])


def planned_slices(
    manifest: Manifest, checker: RowChecker, limit: int | None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the manifest's rows in the plan's form, in order, at most ``SLICE`` at a time.

    Raises:
        ManifestError: a file of the manifest cannot be read.
    """
    number = 0
    for some in manifest.source.slices(SLICE):
        planned = []
        for index, row in enumerate(some.rows if limit is None else some.rows[: limit - number]):
            carried = {new: row[old] for new, old in manifest.carried.items()}
            line = some.lines[index] if some.lines else None
            checked = checker(row, number, line, some.faults.get(index, ""))
            planned.append({**carried, **checked})
            number += 1
        if planned:
            yield planned
        if number == limit:
            return


def _chunks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows, ``CHUNK`` of them in each table but the last."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += len(table)
        while rows >= CHUNK:
            merged = pa.concat_tables(waiting)
            yield merged.slice(0, CHUNK)
            waiting = [merged.slice(CHUNK)]
            rows -= CHUNK
    if rows:
        yield pa.concat_tables(waiting)


def _order(chunk: pa.Table) -> pa.Array:
    """Return the order in which rows are loaded: those of one row group, then of one style.

    A row group of pictures is read as a whole, and a load task keeps it for the next rows.
    """
    content = chunk["content_uri"].fill_null("")
    in_table = pc.match_substring_regex(content, ROW_OF_GROUP)
    group = pc.if_else(in_table, pc.replace_substring_regex(content, ROW_OF_GROUP, ""), "")
    style = pc.binary_join(chunk["style_uri"], "\n")
    keys = pa.table({"group": group, "style": style})
    return pc.sort_indices(keys, [("group", "ascending"), ("style", "ascending")])


def _refuse_duplicates(
    manifest: Manifest,
    target: str,
    options: files.StorageOptions,
    column: str,
    hashes: npt.NDArray[np.int64],
) -> None:
    """Refuse a plan in which two rows have equal values in a column.

    Args:
        manifest: for messages.
        target: directory of the plan.
        options: storage options by scheme.
        column: ``pair_id`` or ``file_stem``.
        hashes: of the column's values; the texts are read again only if two are equal.

    Raises:
        ManifestError: names the first two such rows.
    """
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    fs, path = filesystems.arrow_filesystem(target, options)
    plan = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
    first: dict[str, int] = {}
    for batch in plan.to_batches(columns=[column, "manifest_row"]):
        for row in batch.to_pylist():
            value, number = row[column], row["manifest_row"]
            key = file_key(value) if value and column == "file_stem" else value
            if key is None or hash(key) not in suspects:
                continue
            if key in first:
                rows = manifest.source.where([first[key], number])
                what = "pair_id" if column == "pair_id" else "image file"
                raise ManifestError(
                    f"manifest {manifest.shown}: {rows} have the same {what} {value!r}; each row "
                    "needs its own (a row without a pair_id gets one from its URIs and settings, "
                    "so equal rows need a pair_id each)"
                )
            first[key] = number
