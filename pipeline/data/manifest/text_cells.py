"""Cells of CSV, TSV and JSON lines as the values that a Parquet manifest would hold."""

import csv
import json
import re
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.data.schemas import OWN_COLUMNS
from pipeline.settings import ROW_OVERRIDES, in_short

_LIST = re.compile(r"\s*\[\s*(?:\"|null\b|\]\s*\Z)")
"""The start of a JSON list of texts. A file may be called ``[1].png``."""


_TEXTS = ("pair_id", "output_name", "label", "split")


class TextRow(NamedTuple):
    """A row of a text file."""

    line: int
    values: dict[str, Any]
    fault: str = ""


def header_of(line: str, delimiter: str) -> list[str]:
    """Return the column names in a header."""
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    return [cell.strip() for cell in cells]


def cell_value(name: str, text: str) -> Any:
    """Return a cell of a CSV file in the type that its column has in Parquet; None if empty."""
    if not text.strip():
        return None
    if name in ROW_OVERRIDES:
        return _number(text)
    if name == "style_blend" or (name == "style_uri" and _LIST.match(text)):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return Bad(text)
    return text


def _number(text: str) -> Any:
    """Return a number, true or false if the text is one of these (pandas writes ``True``)."""
    try:
        found = json.loads(text.strip().lower())
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, (int, float)) else text


class Bad(str):
    """A cell that should hold a JSON list, and does not."""

    __slots__ = ()


def checked_row(line: int, values: dict[str, Any]) -> TextRow:
    """Return a row with sound types: cells of other types are null, and the row has a fault."""
    fault = ""
    for name, (is_sound, what) in _TESTS.items():
        value = values.get(name)
        if value is not None and not is_sound(value):
            fault = fault or f"{name}: {in_short(value)} is not {what}"
            values[name] = None
    blend = values.get("style_blend")
    if blend is not None:  # as in a Parquet list: equal blends give equal ids
        values["style_blend"] = [_float(weight) for weight in blend]
    return TextRow(line, values, fault)


def _float(weight: Any) -> Any:
    return float(weight) if type(weight) is int and abs(weight) < 2**53 else weight


def _is_uri_or_list(value: Any) -> bool:
    if isinstance(value, list):
        return all(item is None or _is_uri(item) for item in value)
    return _is_uri(value)


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Bad)


_TESTS = {
    "content_uri": (_is_uri, "a text"),
    "style_uri": (_is_uri_or_list, 'a text or a JSON list of texts, ["a.jpg", "b.jpg"]'),
    "style_blend": (lambda value: isinstance(value, list), "a JSON list of numbers, [0.7, 0.3]"),
    **{name: (lambda value: not isinstance(value, (dict, list)), "a text") for name in _TEXTS},
}


def object_of(line: str) -> dict[str, Any] | str:
    """Return the object in a line of JSON lines, or what is wrong with the line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({' '.join(str(error).split())})"
    if not isinstance(found, dict):
        return "is no JSON object"
    if "\\ud" in line.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "holds half of a character (a lone surrogate)"
    return found


def kind_of(value: Any) -> type:
    """Return a value's kind for ``column_type``; dict where Arrow's integers are too short."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        return dict
    return type(value)


def column_type(name: str, kinds: set[type]) -> pa.DataType:
    """Return the type of a column with values of these kinds; text (JSON) for a mixture."""
    found = kinds - {type(None)}
    if name == "style_blend":
        return pa.list_(pa.float64())
    if name in OWN_COLUMNS or not found:
        return pa.string()
    if found == {bool}:
        return pa.bool_()
    if found == {int}:
        return pa.int64()
    return pa.float64() if found <= {int, float} else pa.string()
