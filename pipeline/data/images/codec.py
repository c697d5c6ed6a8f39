"""Bytes to RGB pixels and back, through Pillow. Nothing that a file holds may end a worker."""

import contextlib
import hashlib
import io
import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from pipeline.data.errors import RowError
from pipeline.data.images import bombs, depths, profiles, repairs, tiffs

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), RGB, 0 to 255."""

SMALLEST = 16
"""Pixels: VGG-19's fifth block sees one position of an image whose edge is 16 px."""

MULTIPLE = 16
"""Sides are rounded to it: VGG-19 halves four times, and equal shapes can share a batch."""

MOST_TEXT = 60_000
"""Bytes of what is written into an image about itself: a JPEG's EXIF ends at 64 KiB."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
"""What is opened; MPO by way of JPEG. Pillow knows more, some of it by way of other programs."""

LEAST_SIDE = 32
"""px: of what is optimised."""

MOST_DISTORTION = 5 / 3
"""What rounding to ``MULTIPLE`` changes proportions by at most: 40 x 24 px become 32 x 32."""

LONGEST = {"webp": 16_383, "jpg": 65_500}
"""px: of an edge that a file of the format can have, by its encoder."""

_lock = threading.Lock()
_within = 0  # threads in ``_without_pillows_limit``
_at_its_end = contextlib.ExitStack()


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow refuses no size and warns of nothing: ``decode`` has its own limit, and one file can
    make Pillow warn 40 000 times. Both are the whole process's; the last thread puts them back."""
    global _within
    with _lock:
        if not _within:
            _at_its_end.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            _at_its_end.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            Image.MAX_IMAGE_PIXELS = None
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                _at_its_end.close()


@_without_pillows_limit()
def decode(
    data: bytes,
    name: str,
    max_pixels: int,
    enough: int | None = None,
    notes: list[str] | None = None,
) -> Image.Image:
    """An RGB image of the first frame, as ``to_rgb`` makes it.

    Args:
        data: a file's content.
        name: its URI for messages, free of credentials.
        max_pixels: larger images are refused before they are decoded.
        enough: px; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, its short edge no less.
        notes: gets what is wrong with a file that is read all the same.

    Raises:
        RowError: ``empty_file``, ``not_an_image``, ``truncated_image``, ``image_too_large``,
            ``image_too_small`` or ``out_of_memory``.
    """
    if not data:
        raise RowError("empty_file", f"{name}: the file is empty")
    page = tiffs.picture(data)
    if tiffs.is_camera_raw(data, page):
        raise RowError(
            "not_an_image",
            f"{name}: camera raw, what a sensor saw; convert it to JPEG, PNG or TIFF first",
        )
    image: Image.Image | tiffs.Directory
    notes = [] if notes is None else notes
    try:
        bombs.refuse_bombs(data)
        data = repairs.without_extras(data, notes)
        image = page if page and tiffs.is_deep(page) else _open(data, enough, page)
    except UnidentifiedImageError as error:
        raise RowError(
            "not_an_image", f"{name}: not an image that Pillow can read{_why(data)}"
        ) from error
    except Exception as error:
        raise RowError(
            "not_an_image", f"{name}: broken image header: {_in_one_line(error)}"
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise RowError(
            "image_too_large",
            f"{name}: {width} x {height} px is more than max_pixels = {max_pixels}",
        )
    if min(width, height) < SMALLEST:
        raise RowError(
            "image_too_small", f"{name}: {width} x {height} px; the least edge is {SMALLEST} px"
        )
    try:
        if isinstance(image, tiffs.Directory):
            return to_rgb(tiffs.read(data, image), notes=notes)
        bombs.check_tiles(image, max_pixels)
        return to_rgb(_loaded(image, data, enough, notes), data, notes)
    except MemoryError as error:
        raise RowError(
            "out_of_memory", f"{name}: not enough memory to decode {width} x {height} px"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise RowError(
            "truncated_image",
            f"{name}: the image data is truncated or corrupt: {_in_one_line(error)}",
        ) from error


def _open(data: bytes, enough: int | None, page: tiffs.Directory | None = None) -> Image.Image:
    file = bombs.TiffReader(data) if data[:2] in (b"II", b"MM") else io.BytesIO(data)
    image: Image.Image = Image.open(file, formats=FORMATS)
    if page and page.page:
        image.seek(page.page)
    if enough is not None:
        image.draft(None, (enough, enough))
    return image


def _why(data: bytes) -> str:
    """What Pillow's own reader of a file's format says of it."""
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:
                return f": {name}, {_in_one_line(error)}"
    return ""


def _loaded(image: Image.Image, data: bytes, enough: int | None, notes: list[str]) -> Image.Image:
    """The image with its pixels; also if nothing but a JPEG's end marker is missing."""
    try:
        image.load()
    except OSError:
        again = [_open(whole, enough) for whole in repairs.ended(data)]
        if not again or again[0].tobytes() != again[1].tobytes():
            raise
        notes.append(repairs.NO_END)
        return again[0]
    return image


def to_rgb(image: Image.Image, data: bytes = b"", notes: list[str] | None = None) -> Image.Image:
    """The image as RGB: upright, in sRGB, transparency laid on white.

    Args:
        data: its file, if there is one (``profiles.find``).
        notes: gets what of the image cannot be followed.
    """
    notes = [] if notes is None else notes
    return _upright(_to_rgb(image, data, notes), _orientation(image, notes))


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _orientation(image: Image.Image, notes: list[str]) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF is no reason to refuse the picture
        notes.append("its EXIF is broken, and it may not be upright")
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    profile = profiles.find(image, data, notes)
    samples = _samples(image, data)
    if samples:
        curve = profiles.curve(profile, notes)
        return Image.fromarray(depths.to_8_bit(samples, curve)).convert("RGB")
    alpha = _alpha(image)
    if image.mode in profiles.GREY:
        image = image.convert("LA").convert("L") if image.mode == "La" else image.convert("L")
    elif image.mode not in ("RGB", "CMYK"):
        image = image.convert("RGB")
    image = profiles.in_srgb(image, profile, notes)  # white, on which it is laid, is sRGB's
    if alpha is None:
        return image
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white


def _alpha(image: Image.Image) -> Image.Image | None:
    """How far each pixel covers what is below it. A channel of nothing but 0, above a picture, is
    none: many programs leave it so."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return image.convert("RGBA").getchannel("A") if "transparency" in image.info else None
    alpha = image.getchannel("A" if image.mode[-1] == "A" else "a")
    if alpha.getextrema() == (0, 0):
        shown = image.convert("RGB") if image.mode in ("RGBA", "PA") else image.convert("LA")
        if any(len(set(channel.getextrema())) > 1 for channel in shown.split()):
            return None
    return alpha


def _samples(image: Image.Image, data: bytes) -> depths.Samples | None:
    """Of an image whose pixels are more than 8 bits, or signed ones, which Pillow takes for others;
    else None."""
    kind, bits, white_is_zero, told = "u", 16, False, None
    page = tiffs.picture(data) if image.format == "TIFF" else None
    found = tiffs.meaning(page) if page else None
    if found:
        kind, bits, white_is_zero, told = found
    elif image.mode == "F":
        kind = "f"
    elif image.mode == "I" and image.format is None:  # of somebody's own making
        kind, bits = "i", 32
    is_signed = image.mode == "L" and kind == "i"
    if not is_signed and not image.mode.startswith("I") and image.mode != "F":
        return None

    def rows(top: int, bottom: int) -> depths.Part:
        part: depths.Part = np.asarray(image.crop((0, top, image.width, bottom)))
        if kind == "u" and bits == 32:  # Pillow has signed ones alone
            return part.view(np.uint32)
        return part.view(np.int8) if is_signed else part

    return depths.Samples(rows, image.width, image.height, kind, bits, white_is_zero, told)


def fit_size(
    width: int, height: int, image_size: float, image_edge: str, max_pixels: int
) -> tuple[int, int]:
    """Width and height for ``image_size`` on the long or short edge, aspect kept.

    Both are rounded to a multiple of 16 px (a shift of the aspect by at most 8 px), at least 32.

    Raises:
        RowError: ``image_too_large``, when a narrow image would become one of more than
            ``max_pixels``; ``image_too_small``, when its short edge would be so far below 32 px
            that its proportions would be lost.
    """
    edge = max(width, height) if image_edge == "long" else min(width, height)
    scale = image_size / edge
    rounded = [
        max(LEAST_SIDE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height)
    ]
    if rounded[0] * rounded[1] > max_pixels:
        raise RowError(
            "image_too_large",
            f"{width} x {height} px with {image_size:g} px on the {image_edge} edge would be "
            f"{rounded[0]} x {rounded[1]} px, more than max_pixels = {max_pixels}",
        )
    if max(width, height) * min(rounded) > MOST_DISTORTION * min(width, height) * max(rounded):
        raise RowError(
            "image_too_small",
            f"{width} x {height} px with {image_size:g} px on the {image_edge} edge would be "
            f"{rounded[0]} x {rounded[1]} px, as no edge may be less than {LEAST_SIDE}, and lose "
            "its proportions; crop it, or take a larger image_size or image_edge short",
        )
    return rounded[0], rounded[1]


def check_format(width: int, height: int, file_format: str) -> None:
    """Refuse what ``encode`` could not write, before anything is spent on it.

    Raises:
        RowError: ``image_too_large``.
    """
    longest = LONGEST.get(file_format)
    if longest is not None and max(width, height) > longest:
        raise RowError(
            "image_too_large",
            f"the result would be {width} x {height} px, and an edge of a {file_format} file has "
            f"at most {longest} px; take a smaller image_size, or image_format png",
        )


def resize(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """(width, height) -> (H, W, 3), Lanczos; large reductions go by way of a box filter."""
    resized = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8)


def encode(
    pixels: Pixels, file_format: str, quality: int, origin: Mapping[str, Any] | None = None
) -> bytes:
    """A PNG, JPEG or WebP file of (H, W, 3) pixels.

    Args:
        file_format: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100, of jpg and webp.
        origin: how the image was made, to be written into it as JSON: PNG text ``Description``,
            EXIF ``ImageDescription`` of jpg and webp. Its ``software`` is named apart as well.
    """
    options: dict[str, Any] = {"format": "PNG", "compress_level": 4}
    if file_format == "jpg":
        options = {"format": "JPEG", "quality": quality, "subsampling": 0}
    if file_format == "webp":
        options = {"format": "WEBP", "quality": quality}
    if origin is not None:
        options |= _embedded(origin, file_format)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _embedded(origin: Mapping[str, Any], file_format: str) -> dict[str, Any]:
    """Pillow's options that put ``origin`` into a file; entries too long for EXIF are left out."""
    told = dict(origin)
    while len(text := json.dumps(told)) > MOST_TEXT:
        del told[max(told, key=lambda name: len(json.dumps(told[name])))]
    software = str(told.get("software", ""))
    if file_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Software", software)
        info.add_text("Description", text)
        return {"pnginfo": info}
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = software
    exif[ExifTags.Base.ImageDescription] = text
    return {"exif": exif}


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
