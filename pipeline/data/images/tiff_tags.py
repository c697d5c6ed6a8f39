"""The tags of TIFF files, which also EXIF and camera raw files are made of.

Source: TIFF 6.0 (Adobe, 1992); version 43 is BigTIFF, with places of 8 bytes.
"""

import math
import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, STRIPS, ORIENTATION, SAMPLES, ROWS, COUNTS = 266, 273, 274, 277, 278, 279
LEAST, MOST, PLANES, PREDICTOR, TILE_WIDTH, TILE_HEIGHT = 280, 281, 284, 317, 322, 323
TILES, TILE_COUNTS, SUB_DIRECTORIES, EXTRA, FORMAT = 324, 325, 330, 338, 339
PROFILE, DNG = 34675, 50706
WANTED = frozenset((
    SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIPS, ORIENTATION,
    SAMPLES, ROWS, COUNTS, LEAST, MOST, PLANES, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILES,
    TILE_COUNTS, SUB_DIRECTORIES, EXTRA, FORMAT, PROFILE, DNG,
))  # fmt: skip
"""Tags that ``picture`` reads."""

SENSOR = (32803, 34892)
"""Values of ``PHOTOMETRIC`` that mean unprocessed sensor data."""

RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")
"""First bytes of camera raw files of Olympus, Panasonic, Fujifilm, Sigma and Minolta."""

REDUCED, MASK = 1, 4
"""Bits of ``SUBFILE``: a small copy of another page, and a transparency mask of another page."""

MOST_PAGES = 16
"""Pages searched for the full picture if the first page is a small copy."""

MOST_VALUES = 2**20
"""Values of a tag that is read; a longer one is ignored."""

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
_ENDS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


@dataclass(frozen=True)
class Directory:
    """The tags of one page.

    Attributes:
        order: the byte order, in the notation of ``struct``: ``<`` or ``>``.
        tags: values by tag number; for ``PROFILE`` its place and length in bytes.
        page: its number in the file, from 0.
        next: the place of the next page's directory in bytes, or 0.
    """

    order: str
    tags: dict[int, tuple[Any, ...]]
    page: int = 0
    next: int = 0

    def one(self, tag: int, default: int) -> int:
        """Return a tag's first value."""
        return int(self.tags.get(tag, (default,))[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels as stored, before ``ORIENTATION`` is applied."""
        return self.one(WIDTH, 0), self.one(HEIGHT, 0)


def picture(data: bytes) -> Directory | None:
    """Return the directory of a TIFF's picture, or None for another file or a broken one.

    It is the first page, unless that is a small copy: then it is the largest page after it.
    """
    first = directories(data, WANTED)
    if first is None or not first.one(SUBFILE, 0) & REDUCED or SUB_DIRECTORIES in first.tags:
        return first  # a small copy with directories inside it is camera raw
    found: list[tuple[int, Directory]] = []
    page = first
    try:
        while page.next and page.page < MOST_PAGES:
            start = page.next
            page = _directory(data, first.order, start, (SUBFILE, WIDTH, HEIGHT), page.page + 1)
            if not page.one(SUBFILE, 0) & (REDUCED | MASK):
                found.append((start, page))
    except (struct.error, OverflowError):  # the pages before this one are intact
        pass
    if not found:
        return first
    start, page = max(found, key=lambda place: math.prod(place[1].size))
    try:
        return _directory(data, first.order, start, WANTED, page.page)
    except (struct.error, OverflowError):  # in a tag that was not read before
        return first


def directories(data: bytes, wanted: Container[int], *inner: int) -> Directory | None:
    """Return the wanted tags of a TIFF's first directory, or of one nested in it.

    Args:
        data: the file.
        wanted: numbers of the tags to read.
        *inner: tags that lead from one directory to the next, from the outside to the inside.

    Returns:
        The directory; None if there is none, or if the way to it is broken.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        (start,) = struct.unpack_from(*((f"{order}Q", data, 8) if version == 43 else
                                        (f"{order}I", data, 4)))  # fmt: skip
        for tag in inner:
            start = _directory(data, order, start, (tag,)).tags[tag][0]
        found = _directory(data, order, start, wanted)
    except (struct.error, KeyError, OverflowError):
        return None
    return found if version in (42, 43) else None


def _directory(
    data: bytes, order: str, start: int, wanted: Container[int], page: int = 0
) -> Directory:
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    offset, count, size = ("Q", "Q", 20) if version == 43 else ("I", "H", 12)
    tags: dict[int, tuple[Any, ...]] = {}
    (entries,) = struct.unpack_from(order + count, data, start)
    start += struct.calcsize(order + count)
    end = start + entries * size
    following = data[end : end + struct.calcsize(order + offset)]
    for number in range(min(entries, 65_535)):
        place = start + number * size
        tag, kind, length = struct.unpack_from(f"{order}HH{offset}", data, place)
        if tag not in wanted or tag in tags or kind not in _TYPES:
            continue
        room = struct.calcsize(order + offset)
        place += size - room
        bytes_of = struct.calcsize(_TYPES[kind]) * length
        if bytes_of > room:  # the entry holds the place of its values
            (place,) = struct.unpack_from(order + offset, data, place)
        if not length or place + bytes_of > len(data):
            continue
        if tag == PROFILE:
            tags[tag] = (place, length)
        elif length <= MOST_VALUES:
            found = np.frombuffer(data, order + _numpy(_TYPES[kind]), length, place)
            tags[tag] = tuple(found.tolist())
    return Directory(order, tags, page, int.from_bytes(following, _ENDS[order]))


def _numpy(letter: str) -> str:
    return f"{'u' if letter.isupper() else 'i'}{struct.calcsize(letter)}"


def is_camera_raw(data: bytes, page: Directory | None) -> bool:
    """Return whether a file holds sensor data, with at most a small picture besides it.

    Args:
        data: the file.
        page: the result of ``picture``.
    """
    if data.startswith(RAW_STARTS) or data[8:10] == b"CR" or data[4:12] == b"ftypcrx ":
        return True
    if page is None:
        return False
    is_small = page.one(SUBFILE, 0) & REDUCED and SUB_DIRECTORIES in page.tags
    is_dng = len(page.tags.get(DNG, ())) == 4  # a version
    return is_dng or page.one(PHOTOMETRIC, 1) in SENSOR or bool(is_small)
