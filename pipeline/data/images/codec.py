"""Image files to RGB images and back, through Pillow. No file may crash or exhaust a worker."""

import contextlib
import hashlib
import io
import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from pipeline.data.errors import RowError
from pipeline.data.images import bombs, repairs, sizing, tiff_tags, tiffs
from pipeline.data.images.conversion import orientation, to_rgb
from pipeline.data.images.sizing import SMALLEST, Pixels

MOST_TEXT = 60_000
"""Bytes of the description written into an image: a JPEG's EXIF block ends at 64 KiB."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
"""Pillow's formats that are opened; its JPEG reader opens MPO too. Pillow knows others, some of
which start external programs."""

LONGEST = {"webp": 16_383, "jpg": 65_500}
"""Longest edge in pixels that a format's encoder can write."""

Fit = Callable[[int, int], tuple[int, int]]
"""Takes a picture's width and height, and returns those that are wanted, all in pixels."""

REDUCED_MARGIN = 2
"""How many times the wanted pixels a JPEG has on each side at least if its decoder reduces it.

The Lanczos filter does the rest, so that little is seen of the decoder's own coarser filter.
"""

READING = 2
"""Version of how files become pixels, in the fingerprint of each job: raise it with the pixels."""

_lock = threading.Lock()
_within = 0  # threads in ``_without_pillows_limit``
_at_its_end = contextlib.ExitStack()


@contextlib.contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Turn off Pillow's own size limit and its warnings.

    ``decode`` has a limit of its own, and a single file can make Pillow warn 40 000 times. Both
    switches belong to the whole process, so the last thread that leaves restores them.
    """
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
    fit: Fit | None = None,
) -> Image.Image:
    """Decode a file's first frame to RGB: upright, in sRGB, transparency laid on white.

    Args:
        data: the file's content.
        name: its URI for messages, without credentials.
        max_pixels: larger images are refused before they are decoded.
        enough: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short
            edge keeps this many pixels.
        notes: gets what is wrong with a file that can be read all the same.
        fit: if given, returns the width and height that the picture will be resized to, given its
            own. A JPEG of four times these is then decoded at a half of its size or less, and
            ``sizing.REDUCED`` is in the image's ``info``.

    Raises:
        RowError: ``empty_file``, ``not_an_image``, ``truncated_image``, ``image_too_large``,
            ``image_too_small`` or ``out_of_memory``; and what ``fit`` raises.
    """
    if not data:
        raise RowError("empty_file", f"{name}: the file is empty")
    page = tiff_tags.picture(data)
    if tiff_tags.is_camera_raw(data, page):
        raise RowError(
            "not_an_image",
            f"{name}: camera raw (unprocessed sensor data); convert it to JPEG, PNG or TIFF first",
        )
    image: Image.Image | tiff_tags.Directory
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
            "image_too_small",
            f"{name}: {width} x {height} px is too small; each edge needs {SMALLEST} px or more",
        )
    reduced = None
    if fit is not None and not isinstance(image, tiff_tags.Directory) and image.format == "JPEG":
        reduced = _reduce(image, fit)
    try:
        if isinstance(image, tiff_tags.Directory):
            return to_rgb(tiffs.read(data, image), notes=notes)
        bombs.check_tiles(image, max_pixels)
        rgb = to_rgb(_loaded(image, data, enough, fit, notes), data, notes)
        if reduced is not None:
            rgb.info[sizing.REDUCED] = reduced
        return rgb
    except MemoryError as error:
        raise RowError(
            "out_of_memory", f"{name}: not enough memory to decode {width} x {height} px"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise RowError(
            "truncated_image",
            f"{name}: the image data is truncated or corrupt: {_in_one_line(error)}",
        ) from error


def _open(data: bytes, enough: int | None, page: tiff_tags.Directory | None = None) -> Image.Image:
    file = bombs.TiffReader(data) if data[:2] in (b"II", b"MM") else io.BytesIO(data)
    image: Image.Image = Image.open(file, formats=FORMATS)
    if page and page.page:
        image.seek(page.page)
    if enough is not None:
        image.draft(None, (enough, enough))
    return image


def _why(data: bytes) -> str:
    """Return the error of Pillow's reader for the file's format, which ``Image.open`` hides."""
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:
                return f": {name}, {_in_one_line(error)}"
    return ""


def _reduce(image: Image.Image, fit: Fit) -> sizing.Reduced | None:
    """Have a JPEG decoded at a part of its size, if that is at least what is wanted.

    Its own transform does that: each block of 8 x 8 px becomes one of 4 x 4, 2 x 2 or 1 px.
    """
    turned, (width, height) = orientation(image, []), image.size
    sideways = turned in (5, 6, 7, 8)
    size = (height, width) if sideways else (width, height)
    wanted = tuple(side * REDUCED_MARGIN for side in fit(*size))
    if min(size[0] // wanted[0], size[1] // wanted[1]) < 2:
        return None
    drafted = image.draft(None, (wanted[1], wanted[0]) if sideways else (wanted[0], wanted[1]))
    if drafted is None:
        return None
    _, (_, _, right, bottom) = drafted
    spare = image.width - right, image.height - bottom
    if sideways:
        right, bottom, spare = bottom, right, spare[::-1]
    # Where the image is mirrored, so is the edge at which its last pixels reach beyond.
    left = spare[0] if turned in (2, 3, 6, 7) else 0.0
    top = spare[1] if turned in (3, 4, 7, 8) else 0.0
    return sizing.Reduced(size, (left, top, left + right, top + bottom))


def _loaded(
    image: Image.Image, data: bytes, enough: int | None, fit: Fit | None, notes: list[str]
) -> Image.Image:
    """Return the image with its pixels decoded, even if a JPEG's end marker is missing."""
    try:
        image.load()
    except OSError:
        again = [_open(whole, enough) for whole in repairs.ended(data)]
        if fit is not None:
            for each in again:
                _reduce(each, fit)
        if not again or again[0].tobytes() != again[1].tobytes():
            raise
        notes.append(repairs.NO_END)
        return again[0]
    return image


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_format(width: int, height: int, file_format: str) -> None:
    """Check that ``encode`` can write a result of this size, before any work is spent on it.

    Raises:
        RowError: ``image_too_large``.
    """
    longest = LONGEST.get(file_format)
    if longest is not None and max(width, height) > longest:
        raise RowError(
            "image_too_large",
            f"the result would be {width} x {height} px, but an edge of a {file_format} file has "
            f"at most {longest} px; use a smaller image_size, or image_format png",
        )


def encode(
    pixels: Pixels, file_format: str, quality: int, origin: Mapping[str, Any] | None = None
) -> bytes:
    """Encode pixels as a PNG, JPEG or WebP file.

    Args:
        pixels: (H, W, 3), RGB, 0 to 255.
        file_format: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100; ignored for png.
        origin: how the image was made. It is written into the file as JSON: PNG text
            ``Description``, EXIF ``ImageDescription`` of jpg and webp. Its entry ``software`` also
            gets a field of its own.
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
    """Return Pillow's options that embed ``origin``, without its longest entries if too long."""
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
    """Return the SHA-256 digest as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
