"""Reading and replacing columns of Arrow tables that come from a user."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types


def as_numbers(schema: pa.Schema) -> pa.Schema:
    """Return the schema with integers in place of dates and times, at any depth.

    Python has neither nanoseconds nor the year 10000. Arrow casts both ways without loss.
    """
    return pa.schema([field.with_type(_as_number(field.type)) for field in schema])


def _as_number(kind: pa.DataType) -> pa.DataType:
    inner = [field.with_type(_as_number(field.type)) for field in _fields(kind)]
    if types.is_map(kind):
        return pa.map_(*inner)
    if types.is_fixed_size_list(kind):
        return pa.list_(inner[0], kind.list_size)
    if types.is_list(kind):
        return pa.list_(inner[0])
    if types.is_struct(kind):
        return pa.struct(inner)
    if types.is_date32(kind) or types.is_time32(kind):
        return pa.int32()
    is_long = types.is_date64(kind) or types.is_time64(kind) or types.is_duration(kind)
    return pa.int64() if is_long or types.is_timestamp(kind) else kind


def _fields(kind: pa.DataType) -> list[pa.Field]:
    if types.is_map(kind):
        return [kind.key_field, kind.item_field]
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return [kind.value_field]
    return list(kind) if types.is_struct(kind) else []


def values(table: pa.Table, name: str) -> list[Any]:
    """Return the values of a column: tensors as numpy arrays, null as None."""
    column = table[name]
    if isinstance(column.type, pa.FixedShapeTensorType):  # its to_pylist gives flat lists
        arrays = (item for chunk in column.chunks for item in chunk)
        return [item.to_numpy() if item.is_valid else None for item in arrays]
    found: list[Any] = column.to_pylist()
    return found


def replace(
    table: pa.Table, columns: Mapping[str, Iterable[Any]], kinds: Mapping[str, str]
) -> pa.Table:
    """Return the table without columns of these names, and with the new columns at its end.

    Args:
        table: any table.
        columns: the values of each new column.
        kinds: the name of each new column's Arrow type.
    """
    table = table.drop_columns([name for name in columns if name in table.column_names])
    for name, some in columns.items():
        table = table.append_column(name, pa.array(some, pa.type_for_alias(kinds[name])))
    return table
