"""What messages are made of."""

from collections.abc import Sequence

NAMED = 5
"""Of many things of a kind, those that a message names."""


def printable(text: str) -> str:
    """As it is where that is safe: names are the users', and a terminal obeys some letters."""
    return text if text.isprintable() else ascii(text)


def counted(count: int, noun: str) -> str:
    """A number of things in words: ``1 pair``, ``2 pairs``."""
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
    """The pairs of a job whose manifest has ``rows``: all, or with ``--limit`` the first ones."""
    first = f"the first {pairs} of " if pairs < rows else ""
    return f"{first}{counted(rows, 'pair')} in the manifest"


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(printable, names[:NAMED])) + more
