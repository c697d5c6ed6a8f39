"""Parquet files as one table: files whose types differ, columns in the names of their folders."""

import urllib.parse
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.data.words import printable


class ColumnError(ValueError):
    """A column stands in a file and in the name of its folder, and not so in all files. The message
    says which, and where.

    The file is named by its path in the folder that was opened.
    """


def open_files(path: str, fs: Any) -> pyarrow.dataset.Dataset | None:
    """A Parquet file, or all that are below a folder; None if there are none.

    A column may be missing in some of the files, or hold nulls alone. Whatever Arrow's types for
    texts and lists are in the files, they are ``string`` and ``list`` here, at any depth, and there
    are no dictionaries. Folders called ``label=cat`` are columns of strings, but for those that all
    files have themselves, as some libraries write them.

    Args:
        fs: Arrow's file system.

    Raises:
        ColumnError: see there.
        pa.ArrowTypeError: a column has types in two files that do not go together.
        OSError, pa.ArrowException: a file cannot be read, or is not Parquet.
    """
    try:
        return _open(path, fs)
    except pa.ArrowInvalid:
        _refuse_doubled(path, fs)
        raise


def _refuse_doubled(path: str, fs: Any) -> None:
    """Arrow says of two columns of one name neither which nor where."""
    files = [fs.get_file_info(path)]
    if not files[0].is_file:
        files = fs.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    for info in files:
        try:
            with fs.open_input_file(info.path) as file:
                names = pq.read_schema(file).names
        except (pa.ArrowException, OSError):
            continue
        for name in names:
            if names.count(name) > 1:
                raise ColumnError(
                    f"{printable(info.base_name)} has {names.count(name)} columns called "
                    f"{name!r}; rename them, or leave all but one out"
                )


def _open(path: str, fs: Any) -> pyarrow.dataset.Dataset | None:
    found = _opened(path, fs, [])
    below = [file[len(path) :].lstrip("/") for file in found.files]
    if not below:
        return None
    names = _columns(below)
    if names:
        found = _opened(path, fs, names)
    parts = list(found.get_fragments())
    inside = set.intersection(*(set(part.physical_schema.names) for part in parts))
    if not inside.isdisjoint(names):  # Arrow would take the folders' values
        names = [name for name in names if name not in inside]
        found = _opened(path, fs, names)
        parts = list(found.get_fragments())
    for part in parts:
        named = pyarrow.dataset.get_partition_keys(part.partition_expression)
        twice = [name for name in named if name in part.physical_schema.names]
        if twice:
            file = printable(part.path[len(path) :].lstrip("/"))
            raise ColumnError(
                f"column {twice[0]!r} is in {file} and in the name of its folder; leave it out of "
                "the file, or rename one of the two"
            )
    schemas = [pa.schema(map(_plain_field, part.physical_schema)) for part in parts]
    unified = pa.unify_schemas([*schemas, _strings(names)], promote_options="permissive")
    return pyarrow.dataset.FileSystemDataset(parts, unified, found.format, filesystem=fs)


def _opened(path: str, fs: Any, names: list[str]) -> pyarrow.dataset.Dataset:
    """The files, with columns of these names from those of their folders."""
    hive = pyarrow.dataset.partitioning(_strings(names), flavor="hive") if names else None
    return pyarrow.dataset.dataset(
        path,
        schema=_strings(names) if names else None,
        filesystem=fs,
        format="parquet",
        partitioning=hive,
    )


def _strings(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _columns(files: Iterable[str]) -> list[str]:
    """Those in the names of folders, as Arrow reads them, in their order."""
    parts = (part.partition("=") for file in files for part in file.split("/")[:-1])
    return list(dict.fromkeys(urllib.parse.unquote(name) for name, sign, _ in parts if sign))


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _plain(kind: pa.DataType) -> pa.DataType:
    """One type for texts and one for lists. Libraries write several, which do not go together."""
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_list(kind) or types.is_large_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if types.is_struct(kind):
        return pa.struct(map(_plain_field, kind))
    return kind
