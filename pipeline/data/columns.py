"""Columns of Arrow tables that somebody else made: their values out, new ones in."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa


def values(table: pa.Table, name: str) -> list[Any]:
    """The values of a column, arrays among them as numpy arrays; null is None."""
    column = table[name]
    if isinstance(column.type, pa.FixedShapeTensorType):  # Arrow's own, which gives flat lists
        arrays = (item for chunk in column.chunks for item in chunk)
        return [item.to_numpy() if item.is_valid else None for item in arrays]
    found: list[Any] = column.to_pylist()
    return found


def replace(
    table: pa.Table, columns: Mapping[str, Iterable[Any]], kinds: Mapping[str, str]
) -> pa.Table:
    """The table with ``columns`` as its last, in place of those that have their names.

    Args:
        kinds: names of their Arrow types.
    """
    table = table.drop_columns([name for name in columns if name in table.column_names])
    for name, some in columns.items():
        table = table.append_column(name, pa.array(some, pa.type_for_alias(kinds[name])))
    return table
