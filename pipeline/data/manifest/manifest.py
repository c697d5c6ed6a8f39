"""The manifest: what a user hands in, checked and brought into one form.

Columns: ``content_uri`` (string) and ``style_uri`` (string, or list of strings for a blend) are
required; ``style_blend`` (list of numbers), ``pair_id``, ``output_name``, ``label``, ``split`` and
the overrides ``content_weight``, ``style_weight``, ``image_size``, ``iterations``, ``seed``,
``preserve_color`` are optional; all others are carried into the records untouched.

Faults of the manifest as a whole end the job before work begins. A fault of one row stays with the
row: the plan carries it in ``fault_class`` and ``fault_message``, and it becomes an error record.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.fs

from pipeline.data.errors import RowError
from pipeline.data.ids import hash_ids
from pipeline.data.manifest import columns, folders
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.names import SPLIT_WORD, file_key
from pipeline.data.schemas import OWN_COLUMNS, PLAN_SCHEMA, RECORD_SCHEMA
from pipeline.data.storage import files, tables, uris, web
from pipeline.data.words import printable

CHUNK = 65_536
"""Rows of one file of the plan; equal styles are brought together within it."""

SLICE = 4_096
"""Rows that are Python objects at a time: they take a hundred times the room of Arrow's."""


INCOMPLETE = "incomplete.parquet"
"""Lies in the folder of a manifest that ``make_manifest`` has not finished."""


class ManifestError(ValueError):
    """The manifest as a whole cannot be used. The message says which file and what to do."""


@dataclass(frozen=True)
class Manifest:
    """An opened manifest. ``carried``: record column to manifest column, for unknown columns."""

    dataset: pyarrow.dataset.Dataset
    shown: str
    carried: dict[str, str]

    @property
    def rows(self) -> int:
        """By the ends of its files, which are in memory."""
        return int(self.dataset.count_rows())

    @property
    def extra(self) -> pa.Schema:
        """The schema of the carried columns under their names in the records."""
        schema = self.dataset.schema
        return pa.schema([schema.field(old).with_name(new) for new, old in self.carried.items()])


@dataclass(frozen=True)
class Plan:
    """What a manifest asks for: its rows, how many of them are faulty, and a digest of all ids."""

    rows: int
    faulty: int
    digest: str
    id_hashes: npt.NDArray[np.int64]
    """One for each row: 8 bytes instead of the text, so that a million rows fit in a driver."""
    shapes: frozenset[tuple[int | None, int]]
    """What sound rows ask to be loaded: their own image_size (px), if they have one, and how many
    styles. Each such pair once."""
    split_words: tuple[int, str]
    """How many images have a word of a split in their class or name, and the first of them."""

    def count_done(self, done: npt.NDArray[np.int64]) -> int:
        """How many rows are among the ids of these hashes (``hash_ids``)."""
        return int(np.isin(self.id_hashes, done).sum())


def open_manifest(uri: str, options: files.StorageOptions) -> Manifest:
    """The Parquet file, or directory of Parquet files, with checked columns.

    Raises:
        ManifestError: missing, empty, not Parquet, or a column is missing or of a wrong type.
    """
    shown = uris.redact(uri)
    try:
        if uris.scheme_of(uri) in web.SCHEMES:
            files.check_web(uri, options)
        fs, path = files.arrow_filesystem(uri, options)
        info = fs.get_file_info(path)
    except RowError as error:
        raise ManifestError(f"manifest {error}") from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: cannot be reached ({files.reason_at(uri, error)}); check the "
            "URI, the endpoint and the credentials"
        ) from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise ManifestError(f"manifest {shown}: does not exist")
    is_local_file = uris.scheme_of(uri) == "file" and info.type != pyarrow.fs.FileType.Directory
    if is_local_file and files.is_special(path):
        raise ManifestError(f"manifest {shown}: is no file, but a pipe or a device")
    if info.type == pyarrow.fs.FileType.File and not info.size:
        raise ManifestError(f"manifest {shown}: the file is empty")
    if files.exists(uris.join(uri, INCOMPLETE), options):
        raise ManifestError(
            f"manifest {shown}: is not complete: make_manifest is still writing it, or was broken "
            "off; wait, or make it again with --overwrite"
        )
    try:
        dataset = folders.open_files(path, fs)
    except folders.ColumnError as error:
        raise ManifestError(f"manifest {shown}: {error}") from error
    except pa.ArrowTypeError as error:
        raise ManifestError(
            f"manifest {shown}: a column has different types in its files "
            f"({files.reason(error)}); give it one type"
        ) from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: not Parquet, or cut off ({files.reason_at(uri, error)}); write "
            "it with pyarrow.parquet.write_table, pandas' to_parquet or jobs.make_manifest"
        ) from error
    if dataset is None:
        raise ManifestError(f"manifest {shown}: the directory holds no Parquet file")
    _check_columns(dataset.schema, shown)
    try:
        tables.refuse_pickles(dataset.schema, f"manifest {shown}")
    except RowError as error:
        raise ManifestError(str(error)) from error
    return Manifest(dataset, shown, _carried_columns(dataset.schema))


def base_of(uri: str, options: files.StorageOptions) -> str:
    """The directory that a manifest's relative URIs are relative to: its own.

    Raises:
        RowError: it cannot be seen whether the manifest is a file.
    """
    if uris.scheme_of(uri) in web.SCHEMES:  # always a file; a signature may hold slashes
        return re.split(r"[?#]", uri, maxsplit=1)[0].rpartition("/")[0]
    return uri if files.is_folder(uri, options) else uri.rpartition("/")[0]


def _check_columns(schema: pa.Schema, shown: str) -> None:
    for column in ("content_uri", "style_uri"):
        if column not in schema.names:
            raise ManifestError(
                f"manifest {shown}: column {column!r} is missing; it has {', '.join(schema.names)}"
            )
        kind = schema.field(column).type
        if column == "style_uri" and _is_list(kind):
            kind = kind.value_type
        if not pa.types.is_string(kind) and not pa.types.is_null(kind):
            raise ManifestError(
                f"manifest {shown}: column {column!r} holds {kind}; it must hold strings"
            )

    if "style_blend" in schema.names:
        kind = schema.field("style_blend").type
        if not _is_list(kind) and not pa.types.is_null(kind):
            raise ManifestError(
                f"manifest {shown}: column 'style_blend' holds {kind}; it must hold lists of "
                "numbers"
            )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _carried_columns(schema: pa.Schema) -> dict[str, str]:
    """Unknown columns by their name in the records: ``manifest_width`` where ``width`` is taken."""
    reserved = {*PLAN_SCHEMA.names, *RECORD_SCHEMA.names}
    carried: dict[str, str] = {}
    for name in schema.names:
        if name in OWN_COLUMNS:
            continue
        new = name
        # Two underscores mark the columns that the stages hand to each other.
        if name.startswith("__") or name in reserved:
            new = f"manifest_{name.lstrip('_')}"
            while new in reserved or new in schema.names or new in carried:
                new += "_"
        carried[new] = name
    return carried


def write_plan(
    manifest: Manifest,
    target: str,
    options: files.StorageOptions,
    *,
    checker: RowChecker,
    limit: int | None,
) -> Plan:
    """Write the manifest in the plan's form below ``target``, rows of equal style side by side.

    Args:
        manifest: from ``open_manifest``.
        target: directory; what it held is deleted.
        options: of the storage.
        checker: of the job.
        limit: rows to take at most.

    Raises:
        ManifestError: there are no rows, or two rows have one ``pair_id`` or one image.
    """
    files.delete(target, options)
    schema = pa.schema([*PLAN_SCHEMA, *columns.as_numbers(manifest.extra)])
    tally = _Tally()
    try:
        parts = (
            pa.Table.from_pylist(tally.add(planned), schema=schema)
            for planned in planned_slices(manifest, checker, limit)
        )
        for index, chunk in enumerate(_chunks(parts)):
            by_style = pc.sort_indices(pc.binary_join(chunk["style_uri"], "\n"))
            part = uris.join(target, f"part-{index:05d}.parquet")
            tables.write_table(part, chunk.take(by_style), options)
    except ManifestError:
        raise
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        raise ManifestError(
            f"manifest {manifest.shown}: a column that is carried into the records cannot be "
            f"({files.reason(error)}); leave it out"
        ) from error
    if not tally.ids:
        raise ManifestError(f"manifest {manifest.shown}: it has no rows")
    id_hashes, stem_hashes = np.concatenate(tally.ids), np.concatenate(tally.stems)
    for column, hashes in (("pair_id", id_hashes), ("file_stem", stem_hashes)):
        _refuse_duplicates(manifest.shown, target, options, column, hashes)
    return Plan(
        rows=len(id_hashes),
        faulty=tally.faulty,
        digest=tally.digest.hexdigest(),
        id_hashes=id_hashes,
        shapes=frozenset(tally.shapes),
        split_words=(tally.split_words, tally.first_split_word),
    )


class _Tally:
    """What is kept of the rows that have been planned: 16 bytes each."""

    def __init__(self) -> None:
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
        return planned


def _shape(row: dict[str, Any]) -> tuple[int | None, int]:
    overrides = row["overrides"]
    own = json.loads(overrides)["image_size"] if '"image_size"' in overrides else None
    return own, len(row["style_uri"])


def planned_slices(
    manifest: Manifest, checker: RowChecker, limit: int | None
) -> Iterator[list[dict[str, Any]]]:
    """The manifest's rows in the plan's form, in their order, at most ``SLICE`` at a time.

    Raises:
        ManifestError: a file of the manifest cannot be read.
    """
    number = 0
    for rows in _slices(manifest):
        planned = []
        for row in rows if limit is None else rows[: limit - number]:
            carried = {new: row[old] for new, old in manifest.carried.items()}
            planned.append({**carried, **checker(row, number)})
            number += 1
        if planned:
            yield planned
        if number == limit:
            return


def _slices(manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    try:
        for batch in manifest.dataset.to_batches(batch_size=SLICE):
            values = [_values(batch, name) for name in batch.schema.names]
            yield [dict(zip(batch.schema.names, row)) for row in zip(*values)]  # noqa: B905
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise ManifestError(
            f"manifest {manifest.shown}: {_unreadable(manifest)}cannot be read: "
            f"{files.reason(error)}; every file of it must be sound Parquet"
        ) from error


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """A column's values; dates and times as numbers where the column is only carried."""
    column, kind = batch[name], columns.as_numbers(batch.schema).field(name).type
    is_as_it_is = name in OWN_COLUMNS or kind == column.type
    found: list[Any] = (column if is_as_it_is else column.cast(kind)).to_pylist()
    return found


def _unreadable(manifest: Manifest) -> str:
    """The first file and column that cannot be read, for a message; empty if none is found."""
    schema = manifest.dataset.schema
    for part in manifest.dataset.get_fragments():
        for name in schema.names:
            try:
                for batch in part.to_batches(schema=schema, columns=[name], batch_size=SLICE):
                    _values(batch, name)
            except Exception:  # the one that is being told
                return f"column {name!r} of {printable(part.path.rpartition('/')[2])} "
    return ""


def _chunks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, ``CHUNK`` of them in each table but the last."""
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


def _refuse_duplicates(
    shown: str,
    target: str,
    options: files.StorageOptions,
    column: str,
    hashes: npt.NDArray[np.int64],
) -> None:
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    fs, path = files.arrow_filesystem(target, options)
    plan = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
    first: dict[str, int] = {}
    for batch in plan.to_batches(columns=[column, "manifest_row"]):
        for row in batch.to_pylist():
            value, number = row[column], row["manifest_row"]
            key = file_key(value) if value and column == "file_stem" else value
            if key is None or hash(key) not in suspects:
                continue
            if key in first:
                rows = " and ".join(str(n) for n in sorted((first[key], number)))
                what = "pair_id" if column == "pair_id" else "image file"
                raise ManifestError(
                    f"manifest {shown}: rows {rows} have the same {what} {value!r}; each row needs "
                    "its own (rows without a pair_id get one from their URIs and settings: equal "
                    "rows need a pair_id each)"
                )
            first[key] = number
