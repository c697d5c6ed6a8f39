"""Thumbnails of pairs: small WebP pictures, as many as a budget of bytes allows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.data.storage import files
from pipeline.report.shrinking import Picture, Shrinker, Task

BUDGET = 15_000_000
"""Most bytes of all thumbnails together; as text on the page they take a third more."""

EDGES = ((40, 512, 400), (300, 320, 240), (100_000, 224, 144))
"""Rows of: most pairs, long edge of a result, long edge of an input (pixels)."""

AT_ONCE = 32
"""Pairs whose pictures are read together."""


@dataclass(frozen=True)
class Wanted:
    """The URIs of one pair's pictures."""

    result: str
    inputs: tuple[str, ...]


@dataclass
class Thumbnails:
    """Thumbnails by URI, as base64 of WebP, and a count of failures by class of error."""

    pictures: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


def make_thumbnails(
    wanted: Sequence[Wanted],
    options: files.StorageOptions,
    allowed: frozenset[str],
    budget: int = BUDGET,
) -> Thumbnails:
    """Read and shrink pictures, pair by pair, until the next pair would exceed the budget.

    The same files give the same thumbnails. A picture that cannot be read is counted and left out.

    Args:
        wanted: The pairs' pictures, most important first.
        options: fsspec options by scheme.
        allowed: URI schemes that may be read. Results are in the output and may always be read.
        budget: Most bytes of all thumbnails.
    """
    made = Thumbnails()
    _, result_edge, input_edge = next(row for row in EDGES if len(wanted) <= row[0])
    tried: set[str] = set()
    with Shrinker(options, allowed) as shrinker:
        for pairs in _chunks(wanted):
            edges = {uri: input_edge for pair in pairs for uri in pair.inputs}
            edges |= {pair.result: result_edge for pair in pairs}
            new = {uri: edge for uri, edge in edges.items() if uri not in tried}
            tried.update(new)
            results = {pair.result for pair in pairs}
            found = shrinker.shrink(
                [Task(uri, edge, trusted=uri in results) for uri, edge in new.items()]
            )
            for pair in pairs:
                if not _take(pair, found, made, budget):
                    return made
    return made


def _chunks(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), AT_ONCE):
        yield wanted[start : start + AT_ONCE]


def _take(pair: Wanted, found: dict[str, Picture | str], made: Thumbnails, budget: int) -> bool:
    """Move a pair's pictures from ``found`` to ``made``; return False if they do not fit."""
    new = {uri: found.pop(uri) for uri in _uris(pair) if uri in found}
    size = sum(data.bytes for data in new.values() if isinstance(data, Picture))
    if made.bytes + size > budget:
        return False
    made.bytes += size
    for uri, data in new.items():
        if isinstance(data, Picture):
            made.pictures[uri] = data.text
        else:
            made.failed[data] += 1
    return True


def _uris(pair: Wanted) -> Iterable[str]:
    return dict.fromkeys((pair.result, *pair.inputs))
