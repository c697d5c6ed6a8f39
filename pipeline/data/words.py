"""Phrases for messages."""

from collections.abc import Sequence

from pipeline.redaction import redact

NAMED = 5
"""Names that a message lists before it says how many more there are."""


def printable(text: str) -> str:
    """Return text that is safe to print: escaped if a terminal could obey one of its characters."""
    return text if text.isprintable() else ascii(text)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 pair``, ``2 pairs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Return a time in words, to the second below an hour: ``3 min 12 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def taken(pairs: int, rows: int) -> str:
    """Return which pairs of a manifest a job takes: all, or with ``--limit`` the first ones."""
    first = f"the first {pairs} of " if pairs < rows else ""
    return f"{first}{counted(rows, 'pair')} in the manifest"


def some_of(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def columns_in_words(names: Sequence[str]) -> str:
    """Return a table's columns. Without a header they may be anything, such as signed addresses."""
    return some_of([redact(name)[:80] for name in names], 20) or "nothing"
