"""One row of the manifest, checked and brought into the plan's form."""

import decimal
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.data import storage
from pipeline.data.errors import RowError
from pipeline.settings import ROW_OVERRIDES, SettingError, StyleSettings, in_short, replace

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


class RowChecker:
    """One row of the manifest to one row of the plan. A fault is a value here, never raised.

    Args:
        base: directory that relative URIs are relative to.
        settings: the job's; overrides are checked against them.
        fingerprint: of the settings; part of derived ids.
        allowed: URI schemes that rows may use.
    """

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
        pair_id = _text(row.get("pair_id"))
        if pair_id is None:
            # Rows that lack a URI are errors, each of its own.
            lacks = number if not row["content_uri"] or not all(styles or [None]) else None
            pair_id = self._derive_id(row["content_uri"], styles, blend, text, lacks)
        planned: dict[str, Any] = {
            "pair_id": pair_id,
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
            planned["file_stem"] = self._stem(planned, _text(row.get("output_name")))
        except RowError as error:
            planned["fault_class"] = error.error_class
            reason = " ".join(str(error).split())[:800]  # a URI may hold anything
            planned["fault_message"] = f"manifest row {number}: {reason}"
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
                f"style_blend: {in_short(blend)} does not fit {styles} styles; "
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

    def _stem(self, planned: Mapping[str, Any], output_name: str | None) -> str:
        """Path of the image below ``images/``, without its ending."""
        name = planned["pair_id"]
        if output_name is not None:
            name = re.sub(r"\.(png|jpe?g|webp)$", "", output_name, flags=re.IGNORECASE)
        parts = {"split": planned["split"], "label": planned["label"]}
        parts["pair_id" if output_name is None else "output_name"] = name
        for column, part in parts.items():
<<<<<<< HEAD
            if part is not None and not is_name(part):
                raise RowError(
                    "bad_name",
                    f"{column}: {part[:80]!r} cannot be a file name; use letters, digits and "
                    "._ ,()+=@~- (a letter or digit first, at most 200 bytes)",
                )
        return "/".join(part for part in parts.values() if part is not None)


def is_name(text: str) -> bool:
    """Whether it can be one part of an image's path on any storage."""
    too_long = len(text.encode(errors="replace")) > LONGEST_NAME
    return bool(NAME.fullmatch(text)) and not too_long and text.casefold() != "metadata.parquet"
=======
            if part is not None:
                check_name(column, part)
        return "/".join(part for part in parts.values() if part is not None)


def check_name(column: str, part: str) -> None:
    """Refuse what cannot be one part of a path on any storage.

    Raises:
        RowError: ``bad_name``.
    """
    too_long = len(part.encode(errors="replace")) > LONGEST_NAME
    if not NAME.fullmatch(part) or too_long or part.casefold() == "metadata.parquet":
        raise RowError(
            "bad_name",
            f"{column}: {part[:80]!r} cannot be a file name; use letters, digits and "
            "._ ,()+=@~- (a letter or digit first, at most 200 bytes)",
        )
>>>>>>> h-manifest


def _text(value: Any) -> str | None:
    """A cell as text. pandas makes floats of integers with a null among them: 7.0 is 7."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            value = int(value)
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
    number = isinstance(value, (float, decimal.Decimal)) and math.isfinite(value)
    if number and value == int(value):
        return int(value)
    return value
