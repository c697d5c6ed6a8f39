"""Phrases for messages."""

from collections.abc import Sequence

NAMED = 5
"""Names that a message lists before it says how many more there are."""


def printable(text: str) -> str:
    """Return text that is safe to print: escaped if a terminal could obey one of its characters."""
    return text if text.isprintable() else ascii(text)


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 pair``, ``2 pairs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def taken(pairs: int, rows: int) -> str:
    """Return which pairs of a manifest a job takes: all, or with ``--limit`` the first ones."""
    first = f"the first {pairs} of " if pairs < rows else ""
    return f"{first}{counted(rows, 'pair')} in the manifest"


def some_of(names: Sequence[str]) -> str:
    """Return the first ``NAMED`` names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(printable, names[:NAMED])) + more
