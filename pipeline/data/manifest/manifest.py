"""Opening a manifest: the list of pairs that a user hands in.

Columns: ``content_uri`` (string) and ``style_uri`` (string, or list of strings for a blend) are
required; ``style_blend`` (list of numbers), ``pair_id``, ``output_name``, ``label``, ``split`` and
the overrides ``content_weight``, ``style_weight``, ``image_size``, ``iterations``, ``seed``,
``preserve_color`` are optional; all others are copied into the records.

A fault of the manifest as a whole ends the job before any work begins.
"""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from pipeline.data.errors import RowError
from pipeline.data.manifest import folders
from pipeline.data.schemas import OWN_COLUMNS, PLAN_SCHEMA, RECORD_SCHEMA
from pipeline.data.storage import failures, files, filesystems, local, tables, uris, web

INCOMPLETE = "incomplete.parquet"
"""File in the folder of a manifest that ``make_manifest`` has not finished."""


class ManifestError(ValueError):
    """The manifest as a whole cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True)
class Manifest:
    """An opened manifest.

    Attributes:
        dataset: its rows.
        shown: its URI for messages, without credentials.
        carried: columns that are copied into the records: record column to manifest column.
    """

    dataset: pyarrow.dataset.Dataset
    shown: str
    carried: dict[str, str]

    @property
    def rows(self) -> int:
        """The number of rows, from the files' footers."""
        return int(self.dataset.count_rows())

    @property
    def extra(self) -> pa.Schema:
        """The schema of the carried columns, under the names that they have in the records."""
        schema = self.dataset.schema
        return pa.schema([schema.field(old).with_name(new) for new, old in self.carried.items()])


def open_manifest(uri: str, options: files.StorageOptions) -> Manifest:
    """Open a Parquet file or a directory of Parquet files, and check its columns.

    Raises:
        ManifestError: it is missing, empty or not Parquet, or a column is missing or has the wrong
            type.
    """
    shown = uris.redact(uri)
    try:
        if uris.scheme_of(uri) in web.SCHEMES:
            files.check_web(uri, options)
        fs, path = filesystems.arrow_filesystem(uri, options)
        info = fs.get_file_info(path)
    except RowError as error:
        raise ManifestError(f"manifest {error}") from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: cannot be reached ({failures.reason_at(uri, error)}); check the "
            "URI, the endpoint and the credentials"
        ) from error
    if info.type == pyarrow.fs.FileType.NotFound:
        raise ManifestError(f"manifest {shown}: does not exist")
    is_local_file = uris.scheme_of(uri) == "file" and info.type != pyarrow.fs.FileType.Directory
    if is_local_file and local.is_special(path):
        raise ManifestError(f"manifest {shown}: is a pipe or a device, not a file")
    if info.type == pyarrow.fs.FileType.File and not info.size:
        raise ManifestError(f"manifest {shown}: the file is empty")
    if files.exists(uris.join(uri, INCOMPLETE), options):
        raise ManifestError(
            f"manifest {shown}: is not complete: make_manifest is still writing it, or was "
            "stopped; wait, or make it again with --overwrite"
        )
    try:
        dataset = folders.open_files(path, fs)
    except folders.ColumnError as error:
        raise ManifestError(f"manifest {shown}: {error}") from error
    except pa.ArrowTypeError as error:
        raise ManifestError(
            f"manifest {shown}: a column has different types in its files "
            f"({failures.reason(error)}); give it one type"
        ) from error
    except Exception as error:
        raise ManifestError(
            f"manifest {shown}: not Parquet, or cut off ({failures.reason_at(uri, error)}); write "
            "it with pyarrow.parquet.write_table, pandas' to_parquet or jobs.make_manifest"
        ) from error
    if dataset is None:
        raise ManifestError(f"manifest {shown}: the directory holds no Parquet file")
    _check_columns(dataset.schema, shown)
    try:
        tables.refuse_pickles(dataset.schema, f"manifest {shown}")
    except RowError as error:
        raise ManifestError(str(error)) from error
    return Manifest(dataset, shown, _carried_columns(dataset.schema))


def base_of(uri: str, options: files.StorageOptions) -> str:
    """Return the directory to which a manifest's relative URIs are relative: its own.

    Raises:
        RowError: storage does not tell whether the manifest is a file.
    """
    if uris.scheme_of(uri) in web.SCHEMES:  # always a file; a signature may hold slashes
        return re.split(r"[?#]", uri, maxsplit=1)[0].rpartition("/")[0]
    return uri if files.is_folder(uri, options) else uri.rpartition("/")[0]


def _check_columns(schema: pa.Schema, shown: str) -> None:
    for column in ("content_uri", "style_uri"):
        if column not in schema.names:
            raise ManifestError(
                f"manifest {shown}: column {column!r} is missing; it has {', '.join(schema.names)}"
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
