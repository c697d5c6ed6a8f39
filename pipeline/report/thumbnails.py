"""Small WebP pictures of pairs, as many as a budget of bytes allows."""

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.data import images, storage, uris
from pipeline.data.errors import RowError

BUDGET = 15_000_000
"""Bytes of all pictures together; a third more as text in the page."""

EDGES = ((40, 512, 400), (300, 320, 240), (100_000, 224, 144))
"""Up to so many pairs: the long edge of a result and of an input, px."""

QUALITY = 74

THREADS = 8
MOST_BYTES = 2**25
MOST_PIXELS = 2**25
"""Of one file and one picture: eight at a time take a GB at the very most."""

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
    options: storage.StorageOptions,
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
    with ThreadPoolExecutor(THREADS) as pool:
        for pairs in _chunks(wanted):
            edges = {uri: input_edge for pair in pairs for uri in pair.inputs}
            edges |= {pair.result: result_edge for pair in pairs}
            new = {uri: edge for uri, edge in edges.items() if uri not in tried}
            tried.update(new)
            results = {pair.result for pair in pairs}
            jobs = {
                uri: pool.submit(_shrink, uri, edge, options, None if uri in results else allowed)
                for uri, edge in new.items()
            }
            found = {uri: job.result() for uri, job in jobs.items()}
            for pair in pairs:
                if not _take(pair, found, made, budget):
                    return made
    return made


def _chunks(wanted: Sequence[Wanted]) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), AT_ONCE):
        yield wanted[start : start + AT_ONCE]


def _take(pair: Wanted, found: dict[str, bytes | str], made: Thumbnails, budget: int) -> bool:
    """Move a pair's pictures from ``found``; False if there is no room for them."""
    new = {uri: found.pop(uri) for uri in _uris(pair) if uri in found}
    size = sum(len(data) for data in new.values() if isinstance(data, bytes))
    if made.bytes + size > budget:
        return False
    made.bytes += size
    for uri, data in new.items():
        if isinstance(data, bytes):
            made.pictures[uri] = base64.b64encode(data).decode()
        else:
            made.failed[data] += 1
    return True


def _uris(pair: Wanted) -> Iterable[str]:
    return dict.fromkeys((pair.result, *pair.inputs))


def _shrink(
    uri: str, edge: int, options: storage.StorageOptions, allowed: frozenset[str] | None
) -> bytes | str:
    """A WebP file of at most ``edge`` px; or the class of the error. Never raises."""
    try:
        if allowed is not None:
            uris.check_scheme(uri, allowed)
        data = storage.read_bytes(uri, options, MOST_BYTES)
        image = images.decode(data, uris.redact(uri), MOST_PIXELS, enough=edge)
        scale = min(1.0, edge / max(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        return images.encode(images.resize(image, (width, height)), "webp", QUALITY)
    except RowError as error:
        return error.error_class
    except Exception:  # a picture in a report is no reason to end anything
        return "unexpected"
