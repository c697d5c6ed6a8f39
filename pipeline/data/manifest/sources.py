"""What a manifest's rows come from; ``parquet_rows`` and ``text_rows`` are two such sources."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa


class ManifestError(ValueError):
    """The manifest as a whole cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True)
class Slice:
    """Rows of a manifest that follow each other.

    Attributes:
        rows: by column.
        lines: number of each row's first line in a text file, from 1; None in Parquet.
        faults: what is wrong with rows that cannot be read, by their index in ``rows``.
    """

    rows: Sequence[dict[str, Any]]
    lines: Sequence[int] | None = None
    faults: Mapping[int, str] = field(default_factory=dict)


class Source(Protocol):
    """The rows of a manifest."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of ``slices``; pictures' columns are called as those of their URIs."""

    def count(self) -> int:
        """Return the number of rows.

        Raises:
            ManifestError: a file cannot be read.
        """

    def slices(self, size: int) -> Iterator[Slice]:
        """Yield the rows in order, at most ``size`` at a time.

        Raises:
            ManifestError: a file cannot be read.
        """

    def where(self, numbers: Sequence[int]) -> str:
        """Return two or more rows in words, by their numbers from 0: ``rows 3 and 7``."""
