"""Writing the folder of a manifest: Parquet files, and a marker file until all are complete."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.data.manifest.lineage import CREDITS, RECIPE
from pipeline.data.manifest.manifest import INCOMPLETE
from pipeline.data.output import records
from pipeline.data.storage import conditional, files, local, tables, uris
from pipeline.data.storage.listing import iterate_files

OWN_FILE = re.compile(rf"part-\d{{5,}}\.parquet|{RECIPE}|{INCOMPLETE}|\..*{local.LEFTOVER}")
"""Names of the files that this module writes."""


class FolderError(ValueError):
    """The folder cannot take a manifest. The message says why and what to do."""


class Row(NamedTuple):
    """A row of the manifest.

    Attributes:
        pair_id: of the pair.
        content_uri: of the content image.
        style_uri: of the style image; None for a row that copies its content.
        label: of the content.
        split: of the content.
        label_id: number of the content's class.
        original: whether the content is copied as it is.
        credits: the content's licence and author, by column.
    """

    pair_id: str
    content_uri: str
    style_uri: str | None
    label: str | None
    split: str | None
    label_id: int | None = None
    original: bool = False
    credits: Mapping[str, str] = {}


KINDS = {"label_id": pa.int64(), "original": pa.bool_()}
"""Types of the columns that are no text."""


def check_folder(output: str, overwrite: bool, options: files.StorageOptions) -> None:
    """Check that the output is empty, or holds only a manifest that may be overwritten.

    Raises:
        FolderError: it holds something else, or a manifest that may not be overwritten.
        ListingError: it cannot be listed.
    """
    shown = uris.redact(output)
    if not files.exists(output, options):
        return
    for file in iterate_files(output, options):
        if file.uri == output:
            raise FolderError(f"output {shown}: is a file; give a folder")
        if not OWN_FILE.fullmatch(file.key):
            raise FolderError(
                f"output {shown}: holds {file.key[:80]!r}, which make_manifest did not write; "
                "choose an empty folder"
            )
        if not overwrite:
            raise FolderError(
                f"output {shown}: holds a manifest, or part of one; --overwrite replaces it "
                "(make sure that no other make_manifest is writing there)"
            )


class Parts:
    """A manifest that is being written; a context manager.

    Until the block ends, the folder holds a marker file that is called Parquet but is not: every
    reader of the folder stops at it. If the block raises, all files are deleted.

    Args:
        output: folder that ``check_folder`` has accepted.
        columns: fields of ``Row`` to write, and of its ``credits``.
        overwrite: whether to delete an earlier manifest.
        options: storage options by scheme.

    Raises:
        FolderError: another process is writing there.
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
        text = b"make_manifest is still writing this folder, or was stopped\n"
        if not conditional.create_bytes(self.mark, text, self.options) and not self.overwrite:
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
        """Write one file of the manifest.

        Raises:
            RowError: it cannot be written.
        """
        fields: dict[str, Sequence[Any]] = {
            name: [row.credits.get(name) for row in rows] for name in CREDITS
        }
        fields |= zip(Row._fields, zip(*rows, strict=True), strict=True)
        arrays = {
            name: pa.array(fields[name], KINDS.get(name, pa.string())) for name in self.columns
        }
        name = f"part-{self.files:05d}.parquet"
        tables.write_table(uris.join(self.output, name), pa.table(arrays), self.options)
        self.files += 1

    def _clear(self) -> None:
        for file in list(iterate_files(self.output, self.options)):
            if OWN_FILE.fullmatch(file.key) and file.key != INCOMPLETE:
                files.delete(file.uri, self.options)
