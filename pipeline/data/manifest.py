"""The manifest: what a user hands in, checked and brought into one form.

Columns: ``content_uri`` (string) and ``style_uri`` (string, or list of strings for a blend) are
required; ``style_blend`` (list of numbers), ``pair_id``, ``output_name``, ``label``, ``split`` and
the overrides ``content_weight``, ``style_weight``, ``image_size``, ``iterations``, ``seed``,
``preserve_color`` are optional; all others are carried into the records untouched.

Faults of the manifest as a whole end the job before work begins. A fault of one row stays with the
row: the plan carries it in ``fault_class`` and ``fault_message``, and it becomes an error record.
"""

import decimal
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from pipeline.data import storage
from pipeline.data.errors import RowError
from pipeline.data.records import RECORD_SCHEMA
from pipeline.settings import ROW_OVERRIDES, SettingError, StyleSettings, replace

CHUNK = 65_536
"""Rows of one file of the plan; equal styles are brought together within it."""

NAME = re.compile(r"(?!__)\w[\w .,()+=@~-]*")
"""What a pair_id, output_name, label or split may be: one part of a path on any storage."""

LONGEST_NAME = 200
"""Bytes: file systems take 255, and temporary names add a few."""

OWN_COLUMNS = (
    "content_uri",
    "style_uri",
    "style_blend",
    "pair_id",
    "output_name",
    "label",
    "split",
    *ROW_OVERRIDES,
)

PLAN_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("manifest_row", pa.int64()),
        ("content_uri", pa.string()),
        ("style_uri", pa.list_(pa.string())),
        ("style_blend", pa.list_(pa.float64())),
        ("file_stem", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("overrides", pa.string()),
        ("fault_class", pa.string()),
        ("fault_message", pa.string()),
    ]
)


class ManifestError(ValueError):
    """The manifest as a whole cannot be used. The message says which file and what to do."""


@dataclass(frozen=True)
class Manifest:
    """An opened manifest. ``carried``: record column to manifest column, for unknown columns."""

    dataset: pyarrow.dataset.Dataset
    shown: str
    carried: dict[str, str]

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

    def count_done(self, done: Iterable[str]) -> int:
        """How many rows are among the ids ``done``."""
        known = np.fromiter(map(hash, done), dtype=np.int64)
        return int(np.isin(self.id_hashes, known).sum())


def open_manifest(uri: str, options: storage.StorageOptions) -> Manifest:
    """The Parquet file, or directory of Parquet files, with checked columns.

    Raises:
        ManifestError: missing, empty, not Parquet, or a column is missing or of a wrong type.
    """
    shown = storage.redact(uri)
    try:
        fs, path = storage.arrow_filesystem(uri, options)
        info = fs.get_file_info(path)
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: cannot be reached: {storage.reason(error)}"
        ) from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise ManifestError(f"manifest {shown}: does not exist")
    if info.type == pyarrow.fs.FileType.File and not info.size:
        raise ManifestError(f"manifest {shown}: the file is empty")
    try:
        dataset = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
        schemas = [fragment.physical_schema for fragment in dataset.get_fragments()]
        if schemas:  # a column may be missing, or hold nulls alone, in some of the files
            unified = pa.unify_schemas(schemas, promote_options="permissive")
            dataset = dataset.replace_schema(unified)
    except Exception as error:
        raise ManifestError(f"manifest {shown}: not Parquet: {storage.reason(error)}") from error
    if not schemas:
        raise ManifestError(f"manifest {shown}: the directory holds no Parquet file")
    _check_columns(dataset.schema, shown)
    return Manifest(dataset, shown, _carried_columns(dataset.schema))


def _check_columns(schema: pa.Schema, shown: str) -> None:
    def is_text(kind: pa.DataType) -> bool:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    for column in ("content_uri", "style_uri"):
        if column not in schema.names:
            raise ManifestError(
                f"manifest {shown}: column {column!r} is missing; it has {', '.join(schema.names)}"
            )
        kind = schema.field(column).type
        if column == "style_uri" and _is_list(kind):
            kind = kind.value_type
        if not is_text(kind) and not pa.types.is_null(kind):
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
    types = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_type(kind) for is_type in types)


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
    options: storage.StorageOptions,
    *,
    base: str,
    settings: StyleSettings,
    fingerprint: str,
    allowed: frozenset[str],
    limit: int | None,
) -> Plan:
    """Write the manifest in the plan's form below ``target``, rows of equal style side by side.

    Args:
        manifest: from ``open_manifest``.
        target: directory; what it held is deleted.
        options: of the storage.
        base: directory that relative URIs are relative to.
        settings: the job's; overrides are checked against them.
        fingerprint: of the settings; part of derived ids.
        allowed: URI schemes that rows may use.
        limit: rows to take at most.

    Raises:
        ManifestError: there are no rows, or two rows have one ``pair_id`` or one image.
    """
    storage.delete(target, options)
    checker = _RowChecker(base, settings, fingerprint, allowed)
    schema = pa.schema([*PLAN_SCHEMA, *manifest.extra])
    digest = hashlib.sha256()
    faulty, rows = 0, 0
    ids: list[int] = []
    stems: list[int] = []
    for index, chunk in enumerate(_chunks(manifest, limit)):
        planned = []
        for row in chunk:
            checked = checker(row, rows)
            rows += 1
            faulty += checked["fault_class"] is not None
            digest.update(f"{checked['pair_id']}\n".encode())
            ids.append(hash(checked["pair_id"]))
            if checked["file_stem"]:
                stems.append(hash(checked["file_stem"].casefold()))
            carried = {new: row[old] for new, old in manifest.carried.items()}
            planned.append({**carried, **checked})
        planned.sort(key=lambda row: [str(uri) for uri in row["style_uri"]])
        part = storage.join(target, f"part-{index:05d}.parquet")
        try:
            storage.write_table(part, pa.Table.from_pylist(planned, schema=schema), options)
        except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
            raise ManifestError(
                f"manifest {manifest.shown}: a column that is carried into the records cannot be "
                f"({storage.reason(error)}); leave it out"
            ) from error
    if not rows:
        raise ManifestError(f"manifest {manifest.shown}: it has no rows")
    for column, hashes in (("pair_id", ids), ("file_stem", stems)):
        _refuse_duplicates(manifest.shown, target, options, column, hashes)
    return Plan(rows, faulty, digest.hexdigest(), np.array(ids, dtype=np.int64))


def _chunks(manifest: Manifest, limit: int | None) -> Iterator[list[dict[str, Any]]]:
    waiting: list[dict[str, Any]] = []
    left = limit
    for rows in _batches(manifest):
        part = rows if left is None else rows[:left]
        if left is not None:
            left -= len(part)
        waiting += part
        while len(waiting) >= CHUNK:
            yield waiting[:CHUNK]
            waiting = waiting[CHUNK:]
        if left == 0:
            break
    if waiting:
        yield waiting


def _batches(manifest: Manifest) -> Iterator[list[dict[str, Any]]]:
    try:
        for batch in manifest.dataset.to_batches(batch_size=CHUNK):
            yield batch.to_pylist()
    except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
        raise ManifestError(
            f"manifest {manifest.shown}: cannot be read: {storage.reason(error)}; every file of "
            "it must be sound Parquet"
        ) from error


def _refuse_duplicates(
    shown: str, target: str, options: storage.StorageOptions, column: str, hashes: list[int]
) -> None:
    values, counts = np.unique(np.array(hashes, dtype=np.int64), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    fs, path = storage.arrow_filesystem(target, options)
    plan = pyarrow.dataset.dataset(path, filesystem=fs, format="parquet")
    first: dict[str, int] = {}
    for batch in plan.to_batches(columns=[column, "manifest_row"]):
        for row in batch.to_pylist():
            value, number = row[column], row["manifest_row"]
            key = value.casefold() if value and column == "file_stem" else value
            if key is None or hash(key) not in suspects:
                continue
            if key in first:
                rows = " and ".join(str(n) for n in sorted((first[key], number)))
                what = "pair_id" if column == "pair_id" else "image file"
                raise ManifestError(
                    f"manifest {shown}: rows {rows} have the same {what} {value!r}; each row needs "
                    "its own (rows without a pair_id get one from their URIs and settings: equal "
                    "rows need a pair_id each, or different seeds)"
                )
            first[key] = number


class _RowChecker:
    """One row of the manifest to one row of the plan. A fault is a value here, never raised."""

    def __init__(
        self, base: str, settings: StyleSettings, fingerprint: str, allowed: frozenset[str]
    ) -> None:
        self.base, self.settings = base, settings
        self.fingerprint, self.allowed = fingerprint, allowed
        self.good_overrides: set[str] = set()

    def __call__(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        overrides = {name: _override(name, row.get(name)) for name in ROW_OVERRIDES}
        overrides = {name: value for name, value in overrides.items() if value is not None}
        given = row["style_uri"]
        styles = [given] if isinstance(given, str) else list(given or [])
        blend = row.get("style_blend")
        text = json.dumps(overrides, sort_keys=True, default=str)
        pair_id = row.get("pair_id")
        if pair_id is None:
            # Rows that lack a URI are errors, each of its own.
            lacks = number if not row["content_uri"] or not all(styles or [None]) else None
            pair_id = self._derive_id(row["content_uri"], styles, blend, text, lacks)
        planned: dict[str, Any] = {
            "pair_id": str(pair_id),
            "manifest_row": number,
            "content_uri": row["content_uri"],
            "style_uri": styles,
            "style_blend": None,
            "file_stem": None,
            "label": _text(row.get("label")),
            "split": _text(row.get("split")),
            "overrides": text,
            "fault_class": None,
            "fault_message": None,
        }
        try:
            planned["style_blend"] = self._blend(blend, len(styles))
            planned["content_uri"] = self._uri(row["content_uri"], "content_uri")
            planned["style_uri"] = [self._uri(style, "style_uri") for style in styles]
            if not styles:
                raise RowError("bad_row", "style_uri: is null; give a path or a URI")
            self._check_overrides(overrides, text)
            planned["file_stem"] = self._stem(planned, row.get("output_name"))
        except RowError as error:
            planned["fault_class"] = error.error_class
            planned["fault_message"] = f"manifest row {number}: {error}"
        return planned

    def _derive_id(self, *parts: Any) -> str:
        text = json.dumps([*parts, self.fingerprint], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _uri(self, uri: Any, column: str) -> str:
        if not uri:
            raise RowError("bad_row", f"{column}: is null or empty; give a path or a URI")
        full = storage.resolve(uri, self.base)
        storage.check_scheme(full, self.allowed)
        return full

    def _blend(self, blend: Any, styles: int) -> list[float]:
        if blend is None:
            return [1.0] * styles
        weights = [_as_float(weight) for weight in blend]
        good = all(isinstance(weight, float) and 0 <= weight < 1e9 for weight in weights)
        if len(weights) != styles or not good or not sum(weights):
            raise RowError(
                "bad_row",
                f"style_blend: {blend!r} does not fit {styles} styles; "
                "give a weight of at least 0 for each, not all 0",
            )
        return weights

    def _check_overrides(self, overrides: Mapping[str, Any], text: str) -> None:
        if text in self.good_overrides:
            return
        try:
            replace(self.settings, **overrides)
        except SettingError as error:
            raise RowError("bad_row", str(error)) from error
        self.good_overrides.add(text)

    def _stem(self, planned: Mapping[str, Any], output_name: Any) -> str:
        """Path of the image below ``images/``, without its ending."""
        name = planned["pair_id"] if output_name is None else str(output_name)
        if output_name is not None:
            name = re.sub(r"\.(png|jpe?g|webp)$", "", name, flags=re.IGNORECASE)
        parts = {"split": planned["split"], "label": planned["label"]}
        parts["pair_id" if output_name is None else "output_name"] = name
        for column, part in parts.items():
            if part is None:
                continue
            too_long = len(part.encode(errors="replace")) > LONGEST_NAME
            if not NAME.fullmatch(part) or too_long or part == "metadata.parquet":
                raise RowError(
                    "bad_name",
                    f"{column}: {part[:80]!r} cannot be a file name; use letters, digits and "
                    "._ ,()+=@~- (a letter or digit first, at most 200 bytes)",
                )
        return "/".join(part for part in parts.values() if part is not None)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _as_float(value: Any) -> Any:
    """Integers and decimals as floats; anything else as it is, to be refused with its name."""
    number = isinstance(value, (int, decimal.Decimal)) and not isinstance(value, bool)
    return float(value) if number else value


def _override(name: str, value: Any) -> Any:
    """A cell as its setting's type, where that loses nothing: pandas makes 256 and null floats."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if name in ("content_weight", "style_weight"):
        return _as_float(value)
    if isinstance(value, (float, decimal.Decimal)) and value == int(value):
        return int(value)
    return value
