"""Opening a manifest: the list of pairs that a user hands in, as Parquet, CSV, TSV or JSON lines.

Columns: ``content_uri`` (string) and ``style_uri`` (string, or list of strings for a blend) are
required. Parquet may hold the pictures themselves in their place: ``content_image`` or ``content``,
``style_image`` or ``style``. ``style_blend`` (list of numbers), ``pair_id``, ``output_name``,
``label``, ``split`` and the overrides ``content_weight``, ``style_weight``, ``image_size``,
``iterations``, ``seed``, ``preserve_color`` are optional; all others are copied into the records.

A fault of the manifest as a whole ends the job before any work begins.
"""

import logging
import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipeline.data.errors import RowError
from pipeline.data.manifest import folders, text_rows
from pipeline.data.manifest.parquet_rows import ParquetRows
from pipeline.data.manifest.sources import ManifestError as ManifestError
from pipeline.data.manifest.sources import Source
from pipeline.data.manifest.text_rows import TextRows
from pipeline.data.schemas import OWN_COLUMNS, PLAN_SCHEMA, RECORD_SCHEMA
from pipeline.data.storage import (
    failures,
    files,
    filesystems,
    local,
    parquet_images,
    tables,
    uris,
    web,
)
from pipeline.data.words import columns_in_words, some_of

logger = logging.getLogger(__name__)

INCOMPLETE = "incomplete.parquet"
"""File in the folder of a manifest that ``make_manifest`` has not finished."""


IMAGES = {
    "content_uri": ("content_image", "content"),
    "style_uri": ("style_image", "style"),
}
"""Columns that may hold pictures in place of a column of URIs."""


@dataclass(frozen=True)
class Manifest:
    """An opened manifest.

    Attributes:
        source: its rows.
        shown: its URI for messages, without credentials.
        carried: columns that are copied into the records: record column to manifest column.
    """

    source: Source
    shown: str
    carried: dict[str, str]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.source.count()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return self.source.schema

    @property
    def extra(self) -> pa.Schema:
        """The schema of the carried columns, under the names that they have in the records."""
        schema = self.schema
        return pa.schema([schema.field(old).with_name(new) for new, old in self.carried.items()])


def open_manifest(uri: str, options: files.StorageOptions, form: str = "auto") -> Manifest:
    """Open a manifest and check its columns.

    Args:
        uri: a Parquet file, a directory of Parquet files, or a CSV, TSV or JSON lines file.
        options: storage options by scheme.
        form: the setting ``manifest_format``.

    Raises:
        ManifestError: it is missing, empty or of another form, or a column is missing or has the
            wrong type.
    """
    shown = uris.redact(uri)
    try:
        if uris.scheme_of(uri) in web.SCHEMES:
            files.check_web(uri, options)
        fs, path = filesystems.arrow_filesystem(uri, options)
        info = fs.get_file_info(path)
    except RowError as error:
        raise ManifestError(f"manifest {error}") from error
    except ImportError as error:
        raise ManifestError(f"manifest {failures.read_error(uri, error)}") from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: cannot be reached ({failures.reason_at(uri, error)}); check the "
            "URI, the endpoint and the credentials"
        ) from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise ManifestError(f"manifest {shown}: does not exist")
    is_folder = info.type == pyarrow.fs.FileType.Directory
    if uris.scheme_of(uri) == "file" and not is_folder and local.is_special(path):
        raise ManifestError(f"manifest {shown}: is a pipe or a device, not a file")
    if info.type == pyarrow.fs.FileType.File and not info.size:
        raise ManifestError(f"manifest {shown}: the file is empty")
    if is_folder and files.exists(uris.join(uri, INCOMPLETE), options):
        raise ManifestError(
            f"manifest {shown}: is not complete: make_manifest is still writing it, or was "
            "stopped; wait, or make it again with --overwrite"
        )
    text = _text_form(uri, shown, form, is_folder)
    source = TextRows(uri, options, text) if text else _open_parquet(uri, shown, path, fs)
    _check_columns(source.schema, shown)
    return Manifest(source, shown, _carried_columns(source.schema))


def _text_form(uri: str, shown: str, form: str, is_folder: bool) -> text_rows.Form | None:
    """Return how a text file is written, by the setting or by its ending; None for Parquet."""
    if form == "parquet" or (form == "auto" and is_folder):
        return None
    if is_folder:
        raise ManifestError(f"manifest {shown}: is a folder; a manifest in {form} is one file")
    ending = form if form != "auto" else _name_of(uri).rpartition(".")[2].lower()
    return text_rows.ENDINGS.get(ending)


def _name_of(uri: str) -> str:
    """Return a file's path; of a web address without query and fragment."""
    is_web = uris.scheme_of(uri) in web.SCHEMES
    return re.split(r"[?#]", uri, maxsplit=1)[0] if is_web else uri


def _open_parquet(uri: str, shown: str, path: str, fs: Any) -> ParquetRows:
    try:
        dataset = folders.open_files(path, fs)
    except (folders.ColumnError, folders.StrayFileError) as error:
        raise ManifestError(f"manifest {shown}: {error}") from error
    except pa.ArrowTypeError as error:
        raise ManifestError(
            f"manifest {shown}: a column has different types in its files "
            f"({failures.reason(error)}); give it one type"
        ) from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: not Parquet, or cut off ({failures.reason_at(uri, error)}); write "
            "it with pyarrow.parquet.write_table, pandas' to_parquet or jobs.make_manifest; other "
            "forms are told by .csv, .tsv or .jsonl, or by --manifest-format"
        ) from error
    if dataset is None:
        raise ManifestError(f"manifest {shown}: the directory holds no Parquet file")
    try:
        tables.refuse_pickles(dataset.schema, f"manifest {shown}")
    except RowError as error:
        raise ManifestError(str(error)) from error
    images = _image_columns(dataset.schema, shown)
    left_out = []
    if images:
        used = {*images.values()}
        left_out = [f.name for f in dataset.schema if f.name not in used and _holds_bytes(f.type)]
    if left_out:
        logger.info(
            f"note: columns of {shown} that hold bytes are not copied into the records: "
            f"{some_of(left_out)}"
        )
    return ParquetRows(dataset, uri, path, images, left_out)


def _image_columns(schema: pa.Schema, shown: str) -> dict[str, str]:
    """Return by the missing column of URIs the column that holds pictures in its place."""
    images = {}
    for column, names in IMAGES.items():
        name = next((name for name in names if name in schema.names), None)
        if column in schema.names or name is None:
            continue
        kind = schema.field(name).type
        lists = column == "style_uri" and parquet_images.holds_lists(kind)
        if not lists and not parquet_images.holds_images(kind) and not pa.types.is_null(kind):
            more = ", or lists of these" if column == "style_uri" else ""
            raise ManifestError(
                f"manifest {shown}: column {name!r} holds {kind}; it must hold the bytes of image "
                f"files, as binary or struct<bytes, path>{more}; paths and URIs go into {column!r}"
            )
        images[column] = name
    return images


def _holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a type holds binary values at any depth."""
    inside = (kind.field(index).type for index in range(kind.num_fields))
    return parquet_images.holds_images(kind) or any(map(_holds_bytes, inside))


def base_of(uri: str, options: files.StorageOptions) -> str:
    """Return the directory to which a manifest's relative URIs are relative: its own.

    Raises:
        RowError: storage does not tell whether the manifest is a file.
    """
    if uris.scheme_of(uri) in web.SCHEMES:  # always a file; a signature may hold slashes
        return _name_of(uri).rpartition("/")[0]
    return uri if files.is_folder(uri, options) else uri.rpartition("/")[0]


def _check_columns(schema: pa.Schema, shown: str) -> None:
    for column in ("content_uri", "style_uri"):
        if column not in schema.names:
            raise ManifestError(
                f"manifest {shown}: column {column!r} is missing; it has "
                f"{columns_in_words(schema.names)}"
            )
        kind = schema.field(column).type
        if column == "style_uri" and _is_list(kind):
            kind = kind.value_type
        if not pa.types.is_string(kind) and not pa.types.is_null(kind):
            raise ManifestError(
                f"manifest {shown}: column {column!r} holds {kind}; it must hold strings"
            )

    if "style_blend" in schema.names:
        kind = schema.field("style_blend").type
        if not _is_list(kind) and not pa.types.is_null(kind):
            raise ManifestError(
                f"manifest {shown}: column 'style_blend' holds {kind}; it must hold lists of "
                "numbers"
            )


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _carried_columns(schema: pa.Schema) -> dict[str, str]:
    """Map record columns to unknown manifest columns: ``manifest_width`` if ``width`` is taken."""
    reserved = {*PLAN_SCHEMA.names, *RECORD_SCHEMA.names}
    carried: dict[str, str] = {}
    for name in schema.names:
        if name in OWN_COLUMNS:
            continue
        new = name
        # The stages pass each other columns whose names begin with two underscores.
        if name.startswith("__") or name in reserved:
            new = f"manifest_{name.lstrip('_')}"
            while new in reserved or new in schema.names or new in carried:
                new += "_"
        carried[new] = name
    return carried
