"""TIFFs whose samples Pillow does not know, or whose meaning it leaves to others."""

import math
import struct
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

from pipeline.data.images import depths

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

WHITE_IS_ZERO, RGB = 0, 2
SENSOR = (32803, 34892)
"""Photometrics of what a camera's sensor saw."""

RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")
"""How camera raw files of Olympus, Panasonic, Fujifilm, Sigma and Minolta begin."""

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
_ENDS: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_DEFLATE = (8, 32946)
_PACKED_AT_ONCE = 2**16
"""Samples whose bits are apart at a time, a byte each."""

# Pillow knows white-is-zero of 8 bits, which it inverts. Others are inverted here.
for _key, _mode in list(TiffImagePlugin.OPEN_INFO.items()):
    _order, _photo, _format, _fill, _bits, _extra = _key
    if _photo == 1 and max(_bits) > 8 and not _extra:
        _key = (_order, WHITE_IS_ZERO, _format, _fill, _bits, _extra)
        TiffImagePlugin.OPEN_INFO.setdefault(_key, _mode)


REDUCED, MASK = 1, 4
"""Bits of ``SUBFILE``: a small copy of another page, and what of another page is seen."""

MOST_PAGES = 16
"""That are looked at for the picture of which the first is a small copy."""


@dataclass(frozen=True)
class Directory:
    """One of a TIFF's. ``order`` is as ``struct`` writes it; of the profile the place is kept.

    ``page`` is its number, and ``next`` the place of the one that follows, or 0.
    """

    order: str
    tags: dict[int, tuple[Any, ...]]
    page: int = 0
    next: int = 0

    def one(self, tag: int, default: int) -> int:
        """A tag's first number."""
        return int(self.tags.get(tag, (default,))[0])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as the pixels lie."""
        return self.one(WIDTH, 0), self.one(HEIGHT, 0)


def picture(data: bytes) -> Directory | None:
    """The first directory; the largest of the pages behind it where that is a thumbnail of one.

    None if it is no TIFF, or a broken one.
    """
    first = directories(data, WANTED)
    if first is None or not first.one(SUBFILE, 0) & REDUCED or SUB_DIRECTORIES in first.tags:
        return first  # of camera raw, if it has directories inside
    found: list[tuple[int, Directory]] = []
    page = first
    try:
        while page.next and page.page < MOST_PAGES:
            start = page.next
            page = _directory(data, first.order, start, (SUBFILE, WIDTH, HEIGHT), page.page + 1)
            if not page.one(SUBFILE, 0) & (REDUCED | MASK):
                found.append((start, page))
    except (struct.error, OverflowError):  # those before it are sound
        pass
    if not found:
        return first
    start, page = max(found, key=lambda place: math.prod(place[1].size))
    return _directory(data, first.order, start, WANTED, page.page)


def directories(data: bytes, wanted: Container[int], *inner: int) -> Directory | None:
    """The first directory, or one that its tag ``inner`` leads to, and so on: what is wanted of it.

    None if there is none, or if what leads there is broken.
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
        if bytes_of > room:
            (place,) = struct.unpack_from(order + offset, data, place)
        if not length or place + bytes_of > len(data):
            continue
        if tag == PROFILE:
            tags[tag] = (place, length)
        elif length <= 2**20:
            found = np.frombuffer(data, order + _numpy(_TYPES[kind]), length, place)
            tags[tag] = tuple(found.tolist())
    return Directory(order, tags, page, int.from_bytes(following, _ENDS[order]))


def _numpy(letter: str) -> str:
    return f"{'u' if letter.isupper() else 'i'}{struct.calcsize(letter)}"


def is_camera_raw(data: bytes, first: Directory | None) -> bool:
    """Whether a file holds what a sensor saw, and a small picture at most beside it."""
    if data.startswith(RAW_STARTS) or data[8:10] == b"CR" or data[4:12] == b"ftypcrx ":
        return True
    if first is None:
        return False
    is_small = first.one(SUBFILE, 0) & REDUCED and SUB_DIRECTORIES in first.tags
    is_dng = len(first.tags.get(DNG, ())) == 4  # a version
    return is_dng or first.one(PHOTOMETRIC, 1) in SENSOR or bool(is_small)


def meaning(first: Directory) -> tuple[str, int, bool, tuple[float, float] | None] | None:
    """Of equal samples ``kind``, ``bits``, ``white_is_zero`` and ``told`` of ``Samples``."""
    bits, formats = first.tags.get(BITS, (1,)), first.tags.get(FORMAT, (1,))
    if len({*bits}) != 1 or len({*formats}) != 1 or formats[0] not in _KINDS:
        return None
    kind, most = _KINDS[formats[0]], first.one(MOST, 0)
    # Many write the picture's own extremes there. White is that of a whole number of bits.
    is_white = kind == "u" and 255 <= most < 2 ** bits[0] and (most + 1).bit_count() == 1
    told = (0.0, float(most)) if is_white and not first.one(LEAST, 0) else None
    return kind, bits[0], first.one(PHOTOMETRIC, 1) == WHITE_IS_ZERO, told


def is_deep(first: Directory) -> bool:
    """Whether ``read`` reads it: samples that Pillow does not know, or does not tell apart."""
    found = meaning(first)
    if found is None or first.one(PHOTOMETRIC, 1) not in (0, 1, RGB):
        return False
    kind, bits, *_ = found
    if kind == "u" and (bits <= 8 or (bits == 16 and first.one(PHOTOMETRIC, 1) == RGB)):
        return False
    whole = bits in (16, 32, 64) or (kind != "f" and bits == 8)
    known = whole or (kind != "f" and bits < 16)
    predictor = first.one(PREDICTOR, 1)
    packed = first.one(COMPRESSION, 1) in (1, *_DEFLATE) and first.one(FILL_ORDER, 1) == 1
    plain = predictor == 1 or (predictor == 2 and whole and kind != "f")
    has_places = STRIPS in first.tags or TILES in first.tags
    return known and packed and plain and has_places and min(first.size) > 0


def read(data: bytes, first: Directory) -> Image.Image:
    """A deep TIFF as a picture of 8 bits, its profile and orientation with it.

    Raises:
        ValueError, OSError: its data is cut off, or is not as its directory says.
    """
    found = meaning(first)
    if found is None:
        raise ValueError("samples that differ")
    kind, bits, white_is_zero, told = found
    colors = 3 if first.one(PHOTOMETRIC, 1) == RGB else 1
    values = _values(data, first, kind, bits)
    if values.shape[2] < colors:
        raise ValueError(f"{values.shape[2]} samples of a pixel for {colors} colours")
    width, height = first.size

    def part(first: int, last: int, kind: str, told: tuple[float, float] | None) -> Any:
        return depths.to_8_bit(
            depths.Samples(
                lambda top, bottom: values[top:bottom, :, first:last], width, height, kind, bits,
                white_is_zero and first == 0, told,
            )
        )  # fmt: skip

    pixels = part(0, colors, kind, told)
    mode = "RGB" if colors == 3 else "L"
    extra = first.tags.get(EXTRA, (0,))[0]
    if values.shape[2] > colors and extra in (1, 2):
        most = 1.0 if kind == "f" else 2.0 ** (bits - (kind == "i")) - 1
        pixels = np.concatenate([pixels, part(colors, colors + 1, kind, (0.0, most))], axis=2)
        mode += "a" if extra == 1 else "A"
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    if PROFILE in first.tags:
        place, length = first.tags[PROFILE]
        image.info["icc_profile"] = data[place : place + length]
    image.getexif()[ExifTags.Base.Orientation] = first.one(ORIENTATION, 1)
    return image


def _values(data: bytes, first: Directory, kind: str, bits: int) -> npt.NDArray[Any]:
    """(height, width, samples) of the machine's own numbers."""
    width, height = first.size
    samples = first.one(SAMPLES, 1)
    if not 1 <= samples <= 8:
        raise ValueError(f"{samples} samples of a pixel")
    size = 4 if kind == "f" else 1 if bits <= 8 else 2 if bits <= 16 else bits // 8
    values = np.zeros((height, width, samples), np.dtype(f"{kind}{size}"))
    for (top, left, plane), rows, columns, raw in _segments(data, first, samples, bits):
        apart = first.one(PLANES, 1) == 2
        form = (rows, columns, 1 if apart else samples)
        part = _unpacked(raw, form, kind, bits, first.order)
        if first.one(PREDICTOR, 1) == 2:
            part = np.cumsum(part, axis=1, dtype=part.dtype)
        target = values[top : top + rows, left : left + columns]
        target = target[..., plane : plane + 1] if apart else target
        with np.errstate(all="ignore"):  # float64 beyond float32
            target[:] = part[: target.shape[0], : target.shape[1]]
    return values


def _segments(
    data: bytes, first: Directory, samples: int, bits: int
) -> Iterator[tuple[tuple[int, int, int], int, int, bytes]]:
    """Strips or tiles: top, left and plane; rows and columns; bytes."""
    width, height = first.size
    tiled = TILES in first.tags
    columns = first.one(TILE_WIDTH, 0) if tiled else width
    rows = first.one(TILE_HEIGHT, 0) if tiled else min(first.one(ROWS, height), height)
    if min(rows, columns) < 1 or rows * columns > 2 * max(width * height, 2**20):
        raise ValueError(f"tiles of {columns} x {rows} px")
    places = first.tags[TILES if tiled else STRIPS]
    lengths = first.tags.get(TILE_COUNTS if tiled else COUNTS, ())
    planes = samples if first.one(PLANES, 1) == 2 else 1
    items = columns * (1 if planes > 1 else samples)
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    if len(places) < across * down * planes:
        raise ValueError(f"{len(places)} strips or tiles of {across * down * planes}")
    for number in range(across * down * planes):
        plane, inside = divmod(number, across * down)
        top, left = inside // across * rows, inside % across * columns
        here = rows if tiled else min(rows, height - top)
        row = math.ceil(items * bits / 8)
        # Some write 10, 12 and 14 bits as two bytes, which only the length shows.
        wide = items * 2 if bits < 16 and bits != 8 else row
        length = lengths[number] if number < len(lengths) else here * row
        part = data[places[number] : places[number] + max(length, here * row)]
        if first.one(COMPRESSION, 1) in _DEFLATE:
            part = zlib.decompressobj().decompress(part[:length], here * max(row, wide))
            length = len(part)
        need = here * (wide if length >= here * wide else row)
        if len(part) < need:
            raise OSError(f"{len(part)} bytes of a strip or tile of {need}")
        yield (top, left, plane), here, columns, part[:need]


def _unpacked(
    raw: bytes, form: tuple[int, int, int], kind: str, bits: int, order: str
) -> npt.NDArray[Any]:
    rows, items = form[0], form[1] * form[2]
    if bits in (8, 16, 32, 64):
        numbers = np.frombuffer(raw, f"{order}{kind}{bits // 8}")
        return numbers.astype(numbers.dtype.newbyteorder("=")).reshape(form)
    if len(raw) == 2 * rows * items:
        found = np.frombuffer(raw, f"{order}u2").astype(np.uint16)
    else:
        found = _from_bits(raw, rows, items, bits)
    if kind == "i":
        half = 1 << (bits - 1)
        signed = (found.astype(np.int32) & (2 * half - 1) ^ half) - half
        return signed.astype(np.int16).reshape(form)
    return found.reshape(form)


def _from_bits(raw: bytes, rows: int, items: int, bits: int) -> npt.NDArray[np.uint16]:
    """Each row begins with a byte of its own."""
    lines = np.frombuffer(raw, np.uint8).reshape(rows, -1)
    found = np.zeros((rows, items), np.uint16)
    many = max(1, _PACKED_AT_ONCE // items)
    for top in range(0, rows, many):
        apart = np.unpackbits(lines[top : top + many], axis=1)[:, : items * bits]
        apart = apart.reshape(-1, items, bits)
        for bit in range(bits):
            found[top : top + many] |= apart[..., bit].astype(np.uint16) << (bits - 1 - bit)
    return found
