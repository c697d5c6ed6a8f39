"""What Hugging Face's ``datasets`` writes beside tables, and about columns into their schemas."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

CARD = "README.md"
"""A data set's card; its head is YAML between lines of ``---``, as on the Hugging Face Hub."""

KEY = b"huggingface"
"""Its key in the schema's metadata."""


def features_of(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the feature of each column; empty if ``datasets`` did not write the file."""
    try:
        found = json.loads((schema.metadata or {}).get(KEY, b"{}"))
        features = found["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the names of a ``ClassLabel`` in the order of their ids; None for another feature."""
    names = feature.get("names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def shared(schemas: Sequence[pa.Schema]) -> dict[bytes, bytes] | None:
    """Return metadata for a table of several files: what all of them say of their columns."""
    first = features_of(schemas[0])
    if not first or any(features_of(schema) != first for schema in schemas[1:]):
        return None
    return {KEY: json.dumps({"info": {"features": first}}).encode()}
