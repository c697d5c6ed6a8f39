"""Listing what a URI stands for: also several names in braces, as webdataset writes them."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator

from pipeline.data.make_manifest.sources.base import SourceError
from pipeline.data.storage import files, uris
from pipeline.data.storage.listing import File, iterate_files

MOST_NAMES = 1_000_000
"""Most names that the braces of a URI may stand for."""

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")


def iterate(uri: str, options: files.StorageOptions) -> Iterator[File]:
    """Yield the files that ``uri`` stands for, as ``iterate_files`` does.

    Args:
        uri: a folder, a file or a glob; or any of them with ``{000..099}`` or ``{a,b}`` in it. The
            keys then start after the last folder without braces or other patterns.
        options: fsspec options by scheme.

    Raises:
        ListingError: one of the names does not exist or cannot be listed.
        SourceError: the braces stand for too many names.
    """
    if not is_braced(uri) or files.exists(uri, options):
        yield from iterate_files(uri, options)
        return
    whole = uris.absolute(uri)
    root = re.split(r"[{*?[]", whole, maxsplit=1)[0].rpartition("/")[0]
    for name in expand(whole):
        for file in iterate_files(name, options):
            yield File(file.uri, file.uri[len(root) + 1 :])


def is_braced(uri: str) -> bool:
    """Return whether a URI holds braces that stand for several names."""
    return any("," in text or _RANGE.fullmatch(text) for text in _GROUP.findall(uri))


def expand(uri: str) -> Iterator[str]:
    """Yield the names that braces stand for, as a shell does: ``{08..10}`` for 08, 09 and 10.

    Raises:
        SourceError: they are more than ``MOST_NAMES``.
    """
    pieces = _GROUP.split(uri)  # text, group, text, group, ..., text
    if math.prod(map(_count, pieces[1::2])) > MOST_NAMES:
        raise SourceError(
            f"{uris.redact(uri)}: its braces stand for more than {MOST_NAMES} names; give a folder "
            "or a glob"
        )
    for chosen in itertools.product(*map(_alternatives, pieces[1::2])):
        yield "".join(text + one for text, one in zip(pieces[::2], (*chosen, ""), strict=True))


def _count(text: str) -> int:
    found = _RANGE.fullmatch(text)
    return abs(int(found[1]) - int(found[2])) + 1 if found else text.count(",") + 1


def _alternatives(text: str) -> Iterable[str]:
    found = _RANGE.fullmatch(text)
    if not found:
        return text.split(",") if "," in text else [f"{{{text}}}"]
    first, last = found.groups()
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + step, step))
