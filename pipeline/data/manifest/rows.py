"""Checking one row of the manifest and rewriting it as a row of the plan."""

import dataclasses
import decimal
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.manifest.signatures import unsigned
from pipeline.data.names import check_name, derive_id
from pipeline.data.storage import uris
from pipeline.redaction import redact
from pipeline.settings import ROW_OVERRIDES, SettingError, StyleSettings, check_value, in_short

_SPECS = [spec for spec in dataclasses.fields(StyleSettings) if spec.name in ROW_OVERRIDES]

_SORTED = sorted(ROW_OVERRIDES)

# Created once: json.dumps creates an encoder for each call, and there may be millions of rows.
_as_json = json.JSONEncoder(default=str).encode


class RowChecker:
    """Turns a row of the manifest into a row of the plan. Faults are stored there, not raised.

    Args:
        base: directory to which relative URIs are relative.
        fingerprint: digest of the settings; part of derived ids.
        allowed: URI schemes that rows may use.
    """

    def __init__(self, base: str, fingerprint: str, allowed: frozenset[str]) -> None:
        self.base, self.fingerprint, self.allowed = base, fingerprint, allowed
        # Many rows share a style; contents seldom come twice.
        self._style_uri = functools.lru_cache(4096)(self._uri)

    def __call__(
        self, row: Mapping[str, Any], number: int, line: int | None = None, fault: str = ""
    ) -> dict[str, Any]:
        """Return the row of the plan for a row of the manifest.

        Args:
            row: the manifest's columns.
            number: of the row, from 0.
            line: of a text file, from 1; messages name it in place of the row.
            fault: why the row could not be read; empty if it could.
        """
        given = {name: _override(name, row.get(name)) for name in _SORTED if name in row}
        overrides = {name: value for name, value in given.items() if value is not None}
        text = _as_json(overrides) if overrides else "{}"
        style = row["style_uri"]
        styles = [style] if isinstance(style, str) else list(style or [])
        blend = row.get("style_blend")
        # The content image itself, beside the stylised ones: a whole training set in one output.
        # Text files hold it as text.
        original = str(row.get("original")).strip().lower() == "true" and not styles
        names = {name: _text(row.get(name)) for name in ("pair_id", "label", "split")}
        secrets = {name: text for name, text in names.items() if text and _is_secret(text)}
        names |= dict.fromkeys(secrets)  # they must not stand in a record
        pair_id = names["pair_id"]
        if pair_id is None:
            # Rows without a URI are separate errors, so their number is part of the id.
            whole = not secrets and row["content_uri"] and (original or all(styles or [None]))
            lacks = None if whole else number
            # New signatures in the URIs must not change the id.
            content, *named = (uri and unsigned(uri) for uri in (row["content_uri"], *styles))
            digest = self._digest(content, named, blend, text, lacks)
            pair_id = derive_id(names["label"], content or "", [uri or "" for uri in named], digest)
        planned: dict[str, Any] = {
            "pair_id": pair_id,
            "manifest_row": number,
            "content_uri": row["content_uri"],
            "style_uri": styles,
            "style_blend": None,
            "file_stem": None,
            "label": names["label"],
            "split": names["split"],
            "overrides": text,
            "fault_class": None,
            "fault_message": None,
        }
        try:
            if fault:
                raise RowError("bad_row", fault)
            for name, text in secrets.items():
                check_name(name, text)
            if secrets:
                raise RowError(
                    "bad_name", f"{' and '.join(secrets)}: holds a credential; give another name"
                )
            planned["style_blend"] = self._blend(blend, len(styles))
            planned["content_uri"] = self._uri(row["content_uri"], "content_uri")
            planned["style_uri"] = [self._style_uri(uri, "style_uri") for uri in styles]
            if not styles and not original:
                what = "is null" if style is None else "is an empty list"
                raise RowError("bad_row", f"style_uri: {what}; give a path or a URI")
            _check_overrides(overrides)
            planned["file_stem"] = self._stem(planned, _text(row.get("output_name")))
        except RowError as error:
            planned["fault_class"] = error.error_class
            reason = " ".join(str(error).split())[:800]  # a URI may hold anything
            where = f"row {number}" if line is None else f"line {line}"
            planned["fault_message"] = f"manifest {where}: {reason}"
        return planned

    def _digest(self, *parts: Any) -> str:
        text = _as_json([*parts, self.fingerprint])
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def _uri(self, uri: Any, column: str) -> str:
        if not uri:
            raise RowError("bad_row", f"{column}: is null or empty; give a path or a URI")
        full = uris.resolve(uri, self.base)
        uris.check_scheme(full, self.allowed)
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
                "give each style a weight of at least 0, not all of them 0",
            )
        return weights

    def _stem(self, planned: Mapping[str, Any], output_name: str | None) -> str:
        """Return the path of the image below ``images/``, without its ending."""
        folders = {name: planned[name] for name in ("split", "label") if planned[name] is not None}
        for column, part in folders.items():
            _check_folder(column, part)
        name = planned["pair_id"]
        if output_name is None:
            check_name("pair_id", name)
        else:
            name = re.sub(r"\.(png|jpe?g|webp)$", "", output_name, flags=re.IGNORECASE)
            check_name("output_name", name)
        return "/".join([*folders.values(), name])


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    for spec in _SPECS:
        if spec.name in overrides:
            try:
                check_value(spec, overrides[spec.name])
            except SettingError as error:
                raise RowError("bad_row", str(error)) from error


def _is_secret(name: str) -> bool:
    """Return whether a name holds a credential, as a signed address does."""
    return _OF_ADDRESSES.search(name) is not None and redact(name) != name


_OF_ADDRESSES = re.compile("[:?@%&#]")

_check_folder = functools.lru_cache(4096)(check_name)  # many rows share a label


def _text(value: Any) -> str | None:
    """Return a cell as text. pandas turns integers into floats if one is null, so 7.0 is 7."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            value = int(value)
    return None if value is None else str(value)


def _as_float(value: Any) -> Any:
    """Return integers and decimals as floats; other values unchanged, to be refused by name."""
    if isinstance(value, bool) or not isinstance(value, (int, decimal.Decimal)):
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def _override(name: str, value: Any) -> Any:
    """Return a cell in its setting's type if nothing is lost; pandas may have made 256 a float."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if name in ("content_weight", "style_weight"):
        return _as_float(value)
    number = isinstance(value, (float, decimal.Decimal)) and math.isfinite(value)
    if number and value == int(value):
        return int(value)
    return value
