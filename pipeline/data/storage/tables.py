"""Read and write whole Parquet files; values that would be unpickled are refused."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.errors import RowError
from pipeline.data.storage.files import StorageOptions, read_bytes, write_bytes
from pipeline.data.storage.uris import redact


def read_table(uri: str, options: StorageOptions) -> pa.Table:
    """Read a whole Parquet file.

    Raises:
        RowError: as ``read_bytes``.
    """
    table = pq.read_table(io.BytesIO(read_bytes(uri, options)))
    refuse_pickles(table.schema, redact(uri))
    return table


def refuse_pickles(schema: pa.Schema, shown: str) -> None:
    """Refuse columns whose values are unpickled when read, such as Ray Data's Python objects.

    Args:
        schema: the schema to check.
        shown: the file for messages, without credentials.

    Raises:
        RowError: ``read_failed``.
    """

    def check(kind: pa.DataType, name: str) -> None:
        if isinstance(kind, pa.ExtensionType):  # defined in Python; Arrow's own are C++
            raise RowError(
                "read_failed",
                f"{shown}: column {name!r} has the Python type {kind.extension_name}, which is "
                "unpickled when read and could run any code; leave the column out",
            )
        for index in range(kind.num_fields):
            check(kind.field(index).type, name)
        if pa.types.is_dictionary(kind):
            check(kind.value_type, name)

    for field in schema:
        check(field.type, field.name)


def write_table(uri: str, table: pa.Table, options: StorageOptions) -> None:
    """Write a whole Parquet file atomically.

    Raises:
        RowError: as ``write_bytes``.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(uri, buffer.getvalue(), options)
