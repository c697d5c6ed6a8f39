"""Deep TIFFs: samples that Pillow does not read, or whose meaning it leaves to others."""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, TiffImagePlugin

from pipeline.data.images import depths
from pipeline.data.images import tiff_tags as tags
from pipeline.data.images.tiff_tags import Directory

WHITE_IS_ZERO, RGB = 0, 2
"""Values of ``PHOTOMETRIC``; 1 is grey with black as zero."""

_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_DEFLATE = (8, 32946)
_PACKED_AT_ONCE = 2**16
"""Samples unpacked to one byte per bit at a time."""

# Pillow opens (and inverts) white-is-zero images of 8 bits only. Deeper ones are inverted here.
for _key, _mode in list(TiffImagePlugin.OPEN_INFO.items()):
    _order, _photo, _format, _fill, _bits, _extra = _key
    if _photo == 1 and max(_bits) > 8 and not _extra:
        _key = (_order, WHITE_IS_ZERO, _format, _fill, _bits, _extra)
        TiffImagePlugin.OPEN_INFO.setdefault(_key, _mode)


def meaning(page: Directory) -> tuple[str, int, bool, tuple[float, float] | None] | None:
    """Return ``kind``, ``bits``, ``white_is_zero`` and ``told`` as in ``depths.Samples``.

    None if the samples of a pixel differ in these, or if their kind is unknown.
    """
    bits, formats = page.tags.get(tags.BITS, (1,)), page.tags.get(tags.FORMAT, (1,))
    if len({*bits}) != 1 or len({*formats}) != 1 or formats[0] not in _KINDS or bits[0] > 64:
        return None
    kind, most = _KINDS[formats[0]], page.one(tags.MOST, 0)
    # Many programs write the picture's own extremes to MOST. It is white if it is 2**n - 1.
    is_white = kind == "u" and 255 <= most < 2 ** bits[0] and (most + 1).bit_count() == 1
    told = (0.0, float(most)) if is_white and not page.one(tags.LEAST, 0) else None
    return kind, bits[0], page.one(tags.PHOTOMETRIC, 1) == WHITE_IS_ZERO, told


def is_deep(page: Directory) -> bool:
    """Return whether ``read`` must read this page, since Pillow cannot or mistakes its samples."""
    found = meaning(page)
    if found is None or page.one(tags.PHOTOMETRIC, 1) not in (0, 1, RGB):
        return False
    kind, bits, *_ = found
    if kind == "u" and (bits <= 8 or (bits == 16 and page.one(tags.PHOTOMETRIC, 1) == RGB)):
        return False
    whole = bits in (16, 32, 64) or (kind != "f" and bits == 8)
    known = whole or (kind != "f" and bits < 16)
    predictor = page.one(tags.PREDICTOR, 1)
    packed = page.one(tags.COMPRESSION, 1) in (1, *_DEFLATE) and page.one(tags.FILL_ORDER, 1) == 1
    plain = predictor == 1 or (predictor == 2 and whole and kind != "f")
    has_places = tags.STRIPS in page.tags or tags.TILES in page.tags
    return known and packed and plain and has_places and min(page.size) > 0


def read(data: bytes, page: Directory) -> Image.Image:
    """Read a deep TIFF as an image of 8 bits, with its profile and orientation.

    Raises:
        ValueError: the data contradicts the directory.
        OSError: the data is cut off.
    """
    found = meaning(page)
    if found is None:
        raise ValueError("its samples differ in type")
    kind, bits, white_is_zero, told = found
    colors = 3 if page.one(tags.PHOTOMETRIC, 1) == RGB else 1
    values = _values(data, page, kind, bits)
    if values.shape[2] < colors:
        raise ValueError(f"{values.shape[2]} samples per pixel for {colors} colours")
    width, height = page.size

    def part(start: int, last: int, kind: str, told: tuple[float, float] | None) -> Any:
        return depths.to_8_bit(
            depths.Samples(
                lambda top, bottom: values[top:bottom, :, start:last], width, height, kind, bits,
                white_is_zero and start == 0, told,
            )
        )  # fmt: skip

    pixels = part(0, colors, kind, told)
    mode = "RGB" if colors == 3 else "L"
    extra = page.tags.get(tags.EXTRA, (0,))[0]
    if values.shape[2] > colors and extra in (1, 2):
        most = 1.0 if kind == "f" else 2.0 ** (bits - (kind == "i")) - 1
        pixels = np.concatenate([pixels, part(colors, colors + 1, kind, (0.0, most))], axis=2)
        mode += "a" if extra == 1 else "A"
    image = Image.frombytes(mode, (width, height), pixels.tobytes())
    if tags.PROFILE in page.tags:
        place, length = page.tags[tags.PROFILE]
        image.info["icc_profile"] = data[place : place + length]
    image.getexif()[ExifTags.Base.Orientation] = page.one(tags.ORIENTATION, 1)
    return image


def _values(data: bytes, page: Directory, kind: str, bits: int) -> npt.NDArray[Any]:
    """Return the samples, (height, width, samples), in the machine's byte order."""
    width, height = page.size
    samples = page.one(tags.SAMPLES, 1)
    if not 1 <= samples <= 8:
        raise ValueError(f"{samples} samples per pixel")
    size = 4 if kind == "f" else 1 if bits <= 8 else 2 if bits <= 16 else bits // 8
    values = np.zeros((height, width, samples), np.dtype(f"{kind}{size}"))
    for (top, left, plane), rows, columns, raw in _segments(data, page, samples, bits):
        apart = page.one(tags.PLANES, 1) == 2
        form = (rows, columns, 1 if apart else samples)
        part = _unpacked(raw, form, kind, bits, page.order)
        if page.one(tags.PREDICTOR, 1) == 2:
            part = np.cumsum(part, axis=1, dtype=part.dtype)
        target = values[top : top + rows, left : left + columns]
        target = target[..., plane : plane + 1] if apart else target
        with np.errstate(all="ignore"):  # float64 values beyond float32's range
            target[:] = part[: target.shape[0], : target.shape[1]]
    return values


def _segments(
    data: bytes, page: Directory, samples: int, bits: int
) -> Iterator[tuple[tuple[int, int, int], int, int, bytes]]:
    """Yield each strip or tile: (top, left, plane), its rows and columns, and its bytes."""
    width, height = page.size
    tiled = tags.TILES in page.tags
    columns = page.one(tags.TILE_WIDTH, 0) if tiled else width
    rows = page.one(tags.TILE_HEIGHT, 0) if tiled else min(page.one(tags.ROWS, height), height)
    if min(rows, columns) < 1 or rows * columns > 2 * max(width * height, 2**20):
        raise ValueError(f"tiles of {columns} x {rows} px")
    places = page.tags[tags.TILES if tiled else tags.STRIPS]
    lengths = page.tags.get(tags.TILE_COUNTS if tiled else tags.COUNTS, ())
    planes = samples if page.one(tags.PLANES, 1) == 2 else 1
    items = columns * (1 if planes > 1 else samples)
    across, down = math.ceil(width / columns), math.ceil(height / rows)
    if len(places) < across * down * planes:
        raise ValueError(f"{len(places)} of {across * down * planes} strips or tiles")
    for number in range(across * down * planes):
        plane, inside = divmod(number, across * down)
        top, left = inside // across * rows, inside % across * columns
        here = rows if tiled else min(rows, height - top)
        row = math.ceil(items * bits / 8)
        # Some programs write 10, 12 and 14 bits as two bytes, which only the length shows.
        wide = items * 2 if bits < 16 and bits != 8 else row
        length = lengths[number] if number < len(lengths) else here * row
        part = data[places[number] : places[number] + max(length, here * row)]
        if page.one(tags.COMPRESSION, 1) in _DEFLATE:
            part = zlib.decompressobj().decompress(part[:length], here * max(row, wide))
            length = len(part)
        need = here * (wide if length >= here * wide else row)
        if len(part) < need:
            raise OSError(f"{len(part)} of {need} bytes of a strip or tile")
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
    """Unpack numbers of ``bits`` bits each; every row starts at a byte boundary."""
    lines = np.frombuffer(raw, np.uint8).reshape(rows, -1)
    found = np.zeros((rows, items), np.uint16)
    many = max(1, _PACKED_AT_ONCE // items)
    for top in range(0, rows, many):
        apart = np.unpackbits(lines[top : top + many], axis=1)[:, : items * bits]
        apart = apart.reshape(-1, items, bits)
        for bit in range(bits):
            found[top : top + many] |= apart[..., bit].astype(np.uint16) << (bits - 1 - bit)
    return found
