"""What an image is made from, as a key: equal for a row of the plan and its record.

Audits and jobs compare these keys. ``output_name`` and carried columns are not part of them.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline.data.storage import uris
from pipeline.settings import ROW_OVERRIDES, StyleSettings, in_one_form, replace

NAMED = ("style_blend", "label", "split")
"""Columns that enter a key as they are."""

_SPECS = {spec.name: spec for spec in dataclasses.fields(StyleSettings)}

COLUMNS = ("content_uri", "style_uri", *NAMED, "settings")
"""Record columns that a key is made from."""


def key_of_plan(row: Mapping[str, Any], style: StyleSettings, base: str) -> int:
    """Return a 64-bit key of a row of the plan.

    Args:
        row: with the plan's columns.
        style: the job's settings.
        base: directory to which relative URIs are relative.
    """
    return _key(parts_of_plan(row, style, base))


def key_of_record(record: Mapping[str, Any], base: str) -> int:
    """Return a 64-bit key of a record that has ``COLUMNS``; ``base`` as for the plan.

    Raises:
        ValueError, KeyError, TypeError: no job wrote its settings.
    """
    return _key(parts_of_record(record, base))


def parts_of_plan(row: Mapping[str, Any], style: StyleSettings, base: str) -> dict[str, Any]:
    """Return by name what a row of the plan asks for, as JSON values."""
    return _parts(row, _asked(row["overrides"], style), base)


def parts_of_record(record: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return by name what a record was made from, as JSON values.

    Raises:
        ValueError, KeyError, TypeError: as ``key_of_record``.
    """
    return _parts(record, _recorded(record["settings"]), base)


def _key(parts: Mapping[str, Any]) -> int:
    digest = hashlib.blake2b(json.dumps([*parts.values()]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _parts(row: Mapping[str, Any], settings: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return the parts of a key, with full URIs and without credentials.

    Rows that were refused keep their URIs as the manifest has them, and so do their records.
    """
    content, *styles = (
        uris.redact(uris.resolve(uri, base)) if uri else uri
        for uri in (row["content_uri"], *(row["style_uri"] or []))
    )
    named = {name: row[name] for name in NAMED}
    return {"content_uri": content, "style_uri": styles, **named, **settings}


@functools.lru_cache(4096)
def _asked(overrides: str, style: StyleSettings) -> Mapping[str, Any]:
    """Return the settings that a row may override, as its record should have them."""
    try:
        settings = replace(style, **json.loads(overrides))
    except ValueError:  # a fault of the row, whose record then has the job's settings
        settings = style
    return {name: getattr(settings, name) for name in ROW_OVERRIDES}


@functools.lru_cache(4096)
def _recorded(settings: str) -> Mapping[str, Any]:
    """Return the settings that a row may override, from its record."""
    values = json.loads(settings)
    return {name: in_one_form(_SPECS[name], values[name]) for name in ROW_OVERRIDES}
