"""Rows of a manifest in a text file: CSV, TSV or JSON lines (also called NDJSON).

The file is read in a stream. A fault of one line is the fault of its row; what makes all further
lines doubtful (an encoding, an open quote) ends the job, and the message names the line.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.manifest.sources import ManifestError, Slice
from pipeline.data.manifest.text_cells import (
    TextRow,
    cell_value,
    checked_row,
    column_type,
    header_of,
    kind_of,
    object_of,
)
from pipeline.data.schemas import OWN_COLUMNS
from pipeline.data.storage import files, uris
from pipeline.settings import in_short

Form = Literal["csv", "tsv", "jsonl"]


ENDINGS: dict[str, Form] = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}
"""Forms by a file name's ending."""


DELIMITERS = ",;\t|"
"""Characters that may separate the cells of a CSV file. Its header tells which one does."""


LONGEST_LINE = 2**20
"""Most characters of a line, so that another kind of file is not read into memory as one line."""

# Of the whole process, so it is not lowered again: another thread may read.
csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))


class TextRows:
    """Rows of a text file.

    Args:
        uri: the file.
        options: storage options by scheme.
        form: how it is written.

    Raises:
        ManifestError: the file cannot be read, is empty, or its first line is not that of the form.
    """

    def __init__(self, uri: str, options: files.StorageOptions, form: Form) -> None:
        self._uri, self._options, self._form = uri, options, form
        self._shown = f"manifest {uris.redact(uri)}"
        self._count: int | None = None
        self._delimiter = "\t"
        self._names: list[str] = []
        self._kinds: dict[str, pa.DataType] = {}
        if form == "jsonl":
            self._look_through()
        else:
            self._read_header()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows. Those that a job reads itself count as texts."""
        return pa.schema([*self._kinds.items()])

    def count(self) -> int:
        """Return the number of rows; the file is read for it unless it has been."""
        if self._count is None:
            self._count = sum(1 for _ in self._rows())
        return self._count

    def where(self, numbers: Sequence[int]) -> str:
        """Return rows in words, with their lines."""
        wanted = sorted(numbers)
        found = {number: row.line for number, row in enumerate(self._rows()) if number in wanted}
        rows, lines = (" and ".join(map(str, some)) for some in (wanted, found.values()))
        return f"rows {rows} (lines {lines})"

    def slices(self, size: int) -> Iterator[Slice]:
        """Yield the rows in order.

        Raises:
            ManifestError: the file cannot be read, or a line cannot be decoded.
        """
        rows, count = self._rows(), 0
        while some := list(itertools.islice(rows, size)):
            count += len(some)
            yield Slice(
                [row.values for row in some],
                [row.line for row in some],
                {index: row.fault for index, row in enumerate(some) if row.fault},
            )
        self._count = count

    def _rows(self) -> Iterator[TextRow]:
        return self._json_rows() if self._form == "jsonl" else self._csv_rows()

    # Lines

    def _lines(self) -> Iterator[str]:
        """Yield the lines with their ends.

        Raises:
            ManifestError: a line is too long or no UTF-8, or the file cannot be read.
        """
        raw = _Chunks(files.read_chunks(self._uri, self._options))
        # Bytes that are no UTF-8 become surrogates, so that their line can be named.
        text = io.TextIOWrapper(
            io.BufferedReader(raw), "utf-8-sig", errors="surrogateescape", newline=""
        )
        try:
            for number in itertools.count(1):
                line = text.readline(LONGEST_LINE)
                if not line:
                    return
                if not line.isascii() or "\0" in line or len(line) == LONGEST_LINE:
                    self._check_line(line, number)
                yield line
        except RowError as error:
            raise ManifestError(f"manifest {error}") from error

    def _check_line(self, line: str, number: int) -> None:
        if line.startswith(("\udcff\udcfe", "\udcfe\udcff")) and number == 1:
            raise ManifestError(f"{self._shown}: is UTF-16; save it as UTF-8")
        if "\0" in line:
            raise ManifestError(
                f"{self._shown}: line {number} holds a null byte; is it a text file? "
                "manifest_format says what it is, if not by its ending"
            )
        if len(line) >= LONGEST_LINE:
            raise ManifestError(
                f"{self._shown}: line {number} has more than {LONGEST_LINE} characters; is it a "
                "text file with a row in each line?"
            )
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise ManifestError(
                f"{self._shown}: line {number} is not UTF-8 (byte 0x{byte:02x}); save the file as "
                "UTF-8 (Excel: 'CSV UTF-8'), or convert it: iconv -f latin1 -t utf-8"
            ) from error

    # CSV and TSV

    def _read_header(self) -> None:
        line = next((line for line in self._lines() if line.strip()), "")
        if not line:
            raise ManifestError(f"{self._shown}: it has no header line")
        found = {mark: header_of(line, mark) for mark in self._delimiters()}
        self._delimiter = max(
            found, key=lambda mark: ("content_uri" in found[mark], len(found[mark]))
        )
        self._names = found[self._delimiter]
        for name in self._names:
            if name and self._names.count(name) > 1:
                raise ManifestError(
                    f"{self._shown}: has {self._names.count(name)} columns called "
                    f"{in_short(name)}; rename them, or remove all but one"
                )
        self._kinds = {name: column_type(name, {str}) for name in self._names if name}

    def _delimiters(self) -> str:
        return "\t" if self._form == "tsv" else DELIMITERS

    def _cells(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the first line, and the cells, of each row that is not empty."""
        reader = csv.reader(self._lines(), delimiter=delimiter, strict=True, skipinitialspace=True)
        while True:
            first = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ManifestError(
                    f"{self._shown}: the row at line {first} cannot be read ({error}); close each "
                    "quote, and write a quote inside a quoted cell twice"
                ) from error
            if cells is None:
                return
            if any(cells):
                yield first, cells

    def _csv_rows(self) -> Iterator[TextRow]:
        cells = self._cells(self._delimiter)
        next(cells)
        for line, values in cells:
            if len(values) != len(self._names):
                fault = (
                    f"has {len(values)} cells, and the header has {len(self._names)}; quote cells "
                    f"that hold {self._delimiter!r}, and write empty ones too"
                )
                yield TextRow(line, dict.fromkeys(self._kinds), fault)
            else:
                named = zip(self._names, values, strict=True)
                yield checked_row(
                    line, {name: cell_value(name, text) for name, text in named if name}
                )

    # JSON lines

    def _look_through(self) -> None:
        """Find the columns, the types of those that are carried, and the number of rows."""
        kinds: dict[str, set[type]] = {}
        count, first = 0, True
        for line, row in self._objects():
            count += 1
            if first and isinstance(row, str):
                raise ManifestError(
                    f"{self._shown}: line {line} {row}; each line must be an object such as "
                    '{"content_uri": "c.png", "style_uri": "s.png"}'
                )
            first = False
            for name, value in row.items() if isinstance(row, dict) else ():
                kinds.setdefault(name, set()).add(kind_of(value))
        if not count:
            raise ManifestError(f"{self._shown}: it has no rows")
        self._count = count
        self._kinds = {name: column_type(name, found) for name, found in kinds.items()}

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield the number and the object of each line that is not empty, or what is wrong."""
        for number, line in enumerate(self._lines(), 1):
            if line.strip():
                yield number, object_of(line)

    def _json_rows(self) -> Iterator[TextRow]:
        empty = dict.fromkeys(self._kinds)
        carried = {name for name in self._kinds if name not in OWN_COLUMNS}
        as_json = {name for name in carried if self._kinds[name] == pa.string()}
        for line, row in self._objects():
            if isinstance(row, str):
                yield TextRow(line, empty, row)
                continue
            for name in as_json & row.keys():
                if row[name] is not None and not isinstance(row[name], str):
                    row[name] = json.dumps(row[name], ensure_ascii=False)
            yield checked_row(line, empty | {name: row[name] for name in row if name in empty})


class _Chunks(io.RawIOBase):
    """A stream over chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._chunks, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
