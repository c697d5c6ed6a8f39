"""The folder of a manifest that is being made: Parquet files, and a mark until all are there."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.data.manifest.manifest import INCOMPLETE
from pipeline.data.output import records
from pipeline.data.storage import files, tables, uris
from pipeline.data.storage.listing import iterate_files

RECIPE = "_manifest.json"
"""How the manifest was made. Readers of Parquet pass over names that begin so."""

OWN_FILE = re.compile(rf"part-\d{{5,}}\.parquet|{RECIPE}|{INCOMPLETE}|\..*{files.LEFTOVER}")


class FolderError(ValueError):
    """The folder is not free for a manifest. The message says why."""


class Row(NamedTuple):
    """A row of the manifest."""

    pair_id: str
    content_uri: str
    style_uri: str
    label: str | None
    split: str | None


def check_folder(output: str, overwrite: bool, options: files.StorageOptions) -> None:
    """Only what this module wrote may be in the output, and that only to be overwritten.

    Raises:
        FolderError: there is more.
    """
    shown = uris.redact(output)
    if not files.exists(output, options):
        return
    for file in iterate_files(output, options):
        if file.uri == output:
            raise FolderError(f"output {shown}: is a file; give a folder")
        if not OWN_FILE.fullmatch(file.key):
            raise FolderError(
                f"output {shown}: holds {file.key[:80]!r}, which is no part of a manifest made "
                "here; choose an empty folder"
            )
        if not overwrite:
            raise FolderError(
                f"output {shown}: holds a manifest, or the beginning of one; --overwrite replaces "
                "it (if no other make_manifest is writing there)"
            )


class Parts:
    """A manifest while it is written. What is there before the block has ended no reader takes.

    The mark is a file that is no Parquet but is called so: every reader of the folder stops at it.
    If the block raises, all files are deleted.

    Args:
        output: a folder that ``check_folder`` has seen.
        columns: the fields of ``Row`` that are written.
        overwrite: delete an earlier manifest.

    Raises:
        FolderError: another process has begun there.
        RowError: the folder cannot be written.
    """

    def __init__(
        self,
        output: str,
        columns: Sequence[str],
        overwrite: bool,
        options: files.StorageOptions,
    ) -> None:
        self.output, self.columns, self.options = output, columns, options
        self.overwrite = overwrite
        self.files = 0
        self.recipe: dict[str, Any] = {}
        self.mark = uris.join(output, INCOMPLETE)

    def __enter__(self) -> "Parts":
        text = b"make_manifest is still writing this folder, or was broken off\n"
        if not files.create_bytes(self.mark, text, self.options) and not self.overwrite:
            raise FolderError(
                f"output {uris.redact(self.output)}: another make_manifest is writing there"
            )
        self._clear()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            recipe = uris.join(self.output, RECIPE)
            records.write_json(recipe, self.recipe, self.options)
        else:
            self._clear()
        files.delete(self.mark, self.options)

    def write(self, rows: Sequence[Row]) -> None:
        """One file of the manifest."""
        fields = dict(zip(Row._fields, zip(*rows, strict=True), strict=True))
        arrays = {name: pa.array(fields[name], pa.string()) for name in self.columns}
        name = f"part-{self.files:05d}.parquet"
        tables.write_table(uris.join(self.output, name), pa.table(arrays), self.options)
        self.files += 1

    def _clear(self) -> None:
        for file in list(iterate_files(self.output, self.options)):
            if OWN_FILE.fullmatch(file.key) and file.key != INCOMPLETE:
                files.delete(file.uri, self.options)
