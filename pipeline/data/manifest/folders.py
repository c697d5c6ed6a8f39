"""Opening Parquet files as one table, although types differ and folder names hold columns."""

import urllib.parse
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.data.manifest import features
from pipeline.data.manifest.features import CARD
from pipeline.data.words import printable


class ColumnError(ValueError):
    """A column exists twice: in one file, or in a file and the name of its folder.

    The message names the column, and the file by its path below the folder that was opened.
    """


class StrayFileError(ValueError):
    """A file in the folder is not Parquet. The message names it by its path below the folder."""


def open_files(path: str, fs: Any) -> pyarrow.dataset.Dataset | None:
    """Open a Parquet file, or all Parquet files below a folder.

    A column may be missing from some files, or hold only nulls there. Arrow has several types for
    text and for lists; here they all become ``string`` and ``list``, at any depth, and dictionaries
    become their values. Folders called ``label=cat`` make columns of strings, unless every file
    has the column itself, as some libraries write it.

    Args:
        path: of the file or folder, in ``fs``.
        fs: an Arrow file system.

    Returns:
        The table; None if there are no files. Its metadata is what all files say of their features.

    Raises:
        ColumnError: a column exists twice.
        StrayFileError: a file in the folder is not Parquet, or cut off.
        pa.ArrowTypeError: a column has incompatible types in two files.
        OSError, pa.ArrowException: a file cannot be read, or is not Parquet.
    """
    try:
        return _open(path, fs)
    except pa.ArrowInvalid:
        _name_the_culprit(path, fs)
        raise


def _name_the_culprit(path: str, fs: Any) -> None:
    """Name a column that a file has twice, or a file of a folder that is not Parquet.

    Arrow's own error names neither the column nor, in a form that is easily found, the file.

    Raises:
        ColumnError: there is such a column.
        StrayFileError: there is such a file.
    """
    files = [fs.get_file_info(path)]
    is_folder = not files[0].is_file
    if is_folder:
        files = fs.get_file_info(pyarrow.fs.FileSelector(path, recursive=True))
    for info in files:
        below = info.path[len(path) :].lstrip("/")
        if not info.is_file or any(part[0] in "._" for part in below.split("/") if part):
            continue  # Arrow passes over these, too
        try:
            with fs.open_input_file(info.path) as file:
                names = pq.read_schema(file).names
        except pa.ArrowInvalid as error:
            if not is_folder:
                return
            raise StrayFileError(
                f"{printable(below)} in this folder is not Parquet, or cut off; move it out, or "
                "give it alone if it holds the pairs; pictures are given by --content and --style"
            ) from error
        except (pa.ArrowException, OSError):
            continue
        for name in names:
            if names.count(name) > 1:
                raise ColumnError(
                    f"{printable(info.base_name)} has {names.count(name)} columns called "
                    f"{name!r}; rename them, or remove all but one"
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
    if not inside.isdisjoint(names):  # Arrow would take the values from the folders' names
        names = [name for name in names if name not in inside]
        found = _opened(path, fs, names)
        parts = list(found.get_fragments())
    for part in parts:
        named = pyarrow.dataset.get_partition_keys(part.partition_expression)
        twice = [name for name in named if name in part.physical_schema.names]
        if twice:
            file = printable(part.path[len(path) :].lstrip("/"))
            raise ColumnError(
                f"column {twice[0]!r} is in {file} and in the name of its folder; remove it from "
                "the file, or rename one of the two"
            )
    schemas = [pa.schema(map(_plain_field, part.physical_schema)) for part in parts]
    unified = pa.unify_schemas([*schemas, _strings(names)], promote_options="permissive")
    unified = unified.with_metadata(features.shared([part.physical_schema for part in parts]))
    return pyarrow.dataset.FileSystemDataset(parts, unified, found.format, filesystem=fs)


def _opened(path: str, fs: Any, names: list[str]) -> pyarrow.dataset.Dataset:
    """Open the files, with the columns called ``names`` taken from the names of folders."""
    hive = pyarrow.dataset.partitioning(_strings(names), flavor="hive") if names else None
    return pyarrow.dataset.dataset(
        path,
        schema=_strings(names) if names else None,
        filesystem=fs,
        format="parquet",
        partitioning=hive,
        ignore_prefixes=[".", "_", CARD],  # the first two are Arrow's own
    )


def _strings(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _columns(files: Iterable[str]) -> list[str]:
    """Return the columns in the names of folders, as Arrow reads them, in order."""
    parts = (part.partition("=") for file in files for part in file.split("/")[:-1])
    return list(dict.fromkeys(urllib.parse.unquote(name) for name, sign, _ in parts if sign))


_LISTS = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view)


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain(field.type))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the one type used here for all of Arrow's types of text, of lists and of bytes."""
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if any(is_one(kind) for is_one in _LISTS):
        return pa.list_(_plain_field(kind.value_field))
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field))
    if types.is_struct(kind):
        return pa.struct(map(_plain_field, kind))
    return kind
