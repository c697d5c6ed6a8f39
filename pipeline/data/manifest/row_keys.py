"""What an image is made from, of a row of the plan and of a record: equal if they are of one row.

An audit and a job both go by it. The manifest's other columns do not count, nor ``output_name``.
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

_SPECS = {spec.name: spec for spec in dataclasses.fields(StyleSettings)}

COLUMNS = ("content_uri", "style_uri", *NAMED, "settings")
"""What must be known of a record."""


def key_of_plan(row: Mapping[str, Any], style: StyleSettings, base: str) -> int:
    """8 bytes of a row of the plan. ``base``: directory that relative URIs are relative to."""
    return _key(parts_of_plan(row, style, base))


def key_of_record(record: Mapping[str, Any], base: str) -> int:
    """8 bytes of a record with ``COLUMNS``; ``base`` as for the plan.

    Raises:
        ValueError, KeyError, TypeError: its settings are not a job's.
    """
    return _key(parts_of_record(record, base))


def parts_of_plan(row: Mapping[str, Any], style: StyleSettings, base: str) -> dict[str, Any]:
    """By name what a row of the plan asks for, in a form that JSON has."""
    return _parts(row, _asked(row["overrides"], style), base)


def parts_of_record(record: Mapping[str, Any], base: str) -> dict[str, Any]:
    """By name what a record was made from, in a form that JSON has.

    Raises:
        ValueError, KeyError, TypeError: as ``key_of_record``.
    """
    return _parts(record, _recorded(record["settings"]), base)


def _key(parts: Mapping[str, Any]) -> int:
    digest = hashlib.blake2b(json.dumps([*parts.values()]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _parts(row: Mapping[str, Any], settings: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Both may hold URIs as the manifest has them (of rows that were refused) or in full; records
    hold no credentials."""
    content, *styles = (
        uris.redact(uris.resolve(uri, base)) if uri else uri
        for uri in (row["content_uri"], *(row["style_uri"] or []))
    )
    named = {name: row[name] for name in NAMED}
    return {"content_uri": content, "style_uri": styles, **named, **settings}


@functools.lru_cache(4096)
def _asked(overrides: str, style: StyleSettings) -> Mapping[str, Any]:
    """The settings that a row may override, as its record should have them."""
    try:
        settings = replace(style, **json.loads(overrides))
    except ValueError:  # the row's fault: its record has the job's
        settings = style
    return {name: getattr(settings, name) for name in ROW_OVERRIDES}


@functools.lru_cache(4096)
def _recorded(settings: str) -> Mapping[str, Any]:
    """The settings that a row may override, from its record."""
    values = json.loads(settings)
    return {name: in_one_form(_SPECS[name], values[name]) for name in ROW_OVERRIDES}
