"""Small WebP pictures of pairs, as many as a budget of bytes allows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.data.storage import files
from pipeline.report.shrinking import Picture, Shrinker, Task

BUDGET = 15_000_000
"""Bytes of all pictures together; a third more as text in the page."""

EDGES = ((40, 512, 400), (300, 320, 240), (100_000, 224, 144))
"""Up to so many pairs: the long edge of a result and of an input, px."""

AT_ONCE = 32
"""Pairs whose pictures are read before the next are looked at."""


@dataclass(frozen=True)
class Wanted:
    """The URIs of one pair's pictures."""

    result: str
    inputs: tuple[str, ...]


@dataclass
class Thumbnails:
    """Pictures by URI, base64 of WebP; and how many could not be made, by class of error."""

    pictures: dict[str, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


def make_thumbnails(
    wanted: Sequence[Wanted],
    options: files.StorageOptions,
    allowed: frozenset[str],
    budget: int = BUDGET,
) -> Thumbnails:
    """Read and shrink pictures, pair by pair, until the next pair's would exceed ``budget`` bytes.

    The same files give the same pictures. A picture that cannot be read is counted and left out.

    Args:
        wanted: in the order of their importance.
        options: of all storages.
        allowed: schemes that are read; results lie in the output and always are.
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
    """Move a pair's pictures from ``found``; False if there is no room for them."""
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
