"""Rows of a manifest in a text file: CSV, TSV or JSON lines (also called NDJSON).

The file is read in a stream. A fault of one line is the fault of its row; what makes all further
lines doubtful (an encoding, an open quote) ends the job, and the message names the line.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.manifest.sources import ManifestError, Slice
from pipeline.data.schemas import OWN_COLUMNS
from pipeline.data.storage import files, uris
from pipeline.settings import ROW_OVERRIDES, in_short

Form = Literal["csv", "tsv", "jsonl"]

ENDINGS: dict[str, Form] = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl"}
"""Forms by a file name's ending."""

DELIMITERS = ",;\t|"
"""Characters that may separate the cells of a CSV file. Its header tells which one does."""

LONGEST_LINE = 2**20
"""Most characters of a line, so that another kind of file is not read into memory as one line."""

_LIST = re.compile(r"\s*\[\s*(?:\"|null\b|\]\s*\Z)")
"""The start of a JSON list of texts. A file may be called ``[1].png``."""

_TEXTS = ("pair_id", "output_name", "label", "split")


class _Row(NamedTuple):
    line: int
    values: dict[str, Any]
    fault: str = ""


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

    def _rows(self) -> Iterator[_Row]:
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
        found = {mark: _header(line, mark) for mark in self._delimiters()}
        self._delimiter = max(
            found, key=lambda mark: ("content_uri" in found[mark], len(found[mark]))
        )
        self._names = found[self._delimiter]
        for name in self._names:
            if name and self._names.count(name) > 1:
                raise ManifestError(
                    f"{self._shown}: has {self._names.count(name)} columns called {name!r}; "
                    "rename them, or remove all but one"
                )
        self._kinds = {name: _column_type(name, {str}) for name in self._names if name}

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

    def _csv_rows(self) -> Iterator[_Row]:
        cells = self._cells(self._delimiter)
        next(cells)
        for line, values in cells:
            if len(values) != len(self._names):
                fault = (
                    f"has {len(values)} cells, and the header has {len(self._names)}; quote cells "
                    f"that hold {self._delimiter!r}, and write empty ones too"
                )
                yield _Row(line, dict.fromkeys(self._kinds), fault)
            else:
                named = zip(self._names, values, strict=True)
                yield _checked(line, {name: _cell(name, text) for name, text in named if name})

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
                kinds.setdefault(name, set()).add(_kind(value))
        if not count:
            raise ManifestError(f"{self._shown}: it has no rows")
        self._count = count
        self._kinds = {name: _column_type(name, found) for name, found in kinds.items()}

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Yield the number and the object of each line that is not empty, or what is wrong."""
        for number, line in enumerate(self._lines(), 1):
            if line.strip():
                yield number, _object(line)

    def _json_rows(self) -> Iterator[_Row]:
        empty = dict.fromkeys(self._kinds)
        carried = {name for name in self._kinds if name not in OWN_COLUMNS}
        as_json = {name for name in carried if self._kinds[name] == pa.string()}
        for line, row in self._objects():
            if isinstance(row, str):
                yield _Row(line, empty, row)
                continue
            for name in as_json & row.keys():
                if row[name] is not None and not isinstance(row[name], str):
                    row[name] = json.dumps(row[name], ensure_ascii=False)
            yield _checked(line, empty | {name: row[name] for name in row if name in empty})


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


def _header(line: str, delimiter: str) -> list[str]:
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    return [cell.strip() for cell in cells]


def _cell(name: str, text: str) -> Any:
    """Return a cell of a CSV file in the type that its column has in Parquet; None if empty."""
    if not text.strip():
        return None
    if name in ROW_OVERRIDES:
        return _number(text)
    if name == "style_blend" or (name == "style_uri" and _LIST.match(text)):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return _Bad(text)
    return text


def _number(text: str) -> Any:
    """Return a number, true or false if the text is one of these (pandas writes ``True``)."""
    try:
        found = json.loads(text.strip().lower())
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, (int, float)) else text


class _Bad(str):
    """A cell that should hold a JSON list, and does not."""

    __slots__ = ()


def _checked(line: int, values: dict[str, Any]) -> _Row:
    """Return a row with sound types: cells of other types are null, and the row has a fault."""
    fault = ""
    for name, (is_sound, what) in _TESTS.items():
        value = values.get(name)
        if value is not None and not is_sound(value):
            fault = fault or f"{name}: {in_short(value)} is not {what}"
            values[name] = None
    blend = values.get("style_blend")
    if blend is not None:  # as in a Parquet list: equal blends give equal ids
        values["style_blend"] = [_float(weight) for weight in blend]
    return _Row(line, values, fault)


def _float(weight: Any) -> Any:
    return float(weight) if type(weight) is int and abs(weight) < 2**53 else weight


def _is_uri_or_list(value: Any) -> bool:
    if isinstance(value, list):
        return all(item is None or _is_uri(item) for item in value)
    return _is_uri(value)


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, _Bad)


_TESTS = {
    "content_uri": (_is_uri, "a text"),
    "style_uri": (_is_uri_or_list, 'a text or a JSON list of texts, ["a.jpg", "b.jpg"]'),
    "style_blend": (lambda value: isinstance(value, list), "a JSON list of numbers, [0.7, 0.3]"),
    **{name: (lambda value: not isinstance(value, (dict, list)), "a text") for name in _TEXTS},
}


def _object(line: str) -> dict[str, Any] | str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({' '.join(str(error).split())})"
    if not isinstance(found, dict):
        return "is no JSON object"
    if "\\ud" in line.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "holds half of a character (a lone surrogate)"
    return found


def _kind(value: Any) -> type:
    if type(value) is int and not -(2**63) <= value < 2**63:
        return dict
    return type(value)


def _column_type(name: str, kinds: set[type]) -> pa.DataType:
    """Return the type of a column with values of these kinds; text (JSON) for a mixture."""
    found = kinds - {type(None)}
    if name == "style_blend":
        return pa.list_(pa.float64())
    if name in OWN_COLUMNS or not found:
        return pa.string()
    if found == {bool}:
        return pa.bool_()
    if found == {int}:
        return pa.int64()
    return pa.float64() if found <= {int, float} else pa.string()
