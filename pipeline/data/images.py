"""Bytes to RGB pixels and back, through Pillow. Nothing that a file holds may end a worker."""

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from pipeline.data import bombs
from pipeline.data.errors import RowError

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

GREY = ("1", "L", "LA", "La")
"""Modes whose profiles, curves of grey, are not followed."""

# One file can make Pillow warn 40 000 times.
warnings.filterwarnings("ignore", module=r"PIL\.")

Image.MAX_IMAGE_PIXELS = None  # the limit is checked below, with the job's own number


def decode(data: bytes, name: str, max_pixels: int, enough: int | None = None) -> Image.Image:
    """An RGB image of the first frame, as ``to_rgb`` makes it.

    Args:
        data: a file's content.
        name: its URI for messages, free of credentials.
        max_pixels: larger images are refused before they are decoded.
        enough: px; a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, its short edge no less.

    Raises:
        RowError: ``empty_file``, ``not_an_image``, ``truncated_image``, ``image_too_large``,
            ``image_too_small`` or ``out_of_memory``.
    """
    if not data:
        raise RowError("empty_file", f"{name}: the file is empty")
    try:
        bombs.refuse_bombs(data)
        file = bombs.TiffReader(data) if data[:2] in (b"II", b"MM") else io.BytesIO(data)
        image: Image.Image = Image.open(file, formats=FORMATS)
        if enough is not None:
            image.draft(None, (enough, enough))
    except UnidentifiedImageError as error:
        raise RowError("not_an_image", f"{name}: not an image that Pillow can read") from error
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
        bombs.check_tiles(image, max_pixels)
        image.load()
        return to_rgb(image)
    except MemoryError as error:
        raise RowError(
            "out_of_memory", f"{name}: not enough memory to decode {width} x {height} px"
        ) from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise RowError(
            "truncated_image",
            f"{name}: the image data is truncated or corrupt: {_in_one_line(error)}",
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB: upright, in sRGB (grey as it is), transparency laid on white."""
    return _upright(_to_rgb(image), _orientation(image))


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF is no reason to refuse the picture
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bit(image).convert("RGB")
    profile = None if image.mode in GREY else image.info.get("icc_profile")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        image = _in_srgb(image, profile, "RGBA")  # white, on which it is laid, is sRGB's
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode in ("RGB", "CMYK"):
        return _in_srgb(image, profile, "RGB")
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None, mode: str) -> Image.Image:
    """The image in ``mode``, its colours by its ICC profile; alpha stays as it is."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode=mode)
        except Exception:
            converted = None  # a broken profile is no reason to refuse the picture
        if converted is not None:
            return converted
    return image if image.mode == mode else image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its full range; 32-bit and float grey, which have none, by their own."""
    extremes = np.array([(part.min(), part.max()) for _, part in _strips(image)], np.float64)
    least, most = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < most <= 65535):
        low, high = 0.0, 65535.0
    elif np.isfinite([least, most]).all() and (least < 0 or most > 255):
        low, high = least, most
    else:
        low, high = 0.0, 255.0
    scale = 255 / (high - low) if high > low else 0.0
    grey = np.empty((image.height, image.width), np.uint8)
    for top, part in _strips(image):
        with np.errstate(all="ignore"):  # infinite and missing values
            scaled = ((part.astype(np.float64) - low) * scale).round().clip(0, 255)
        grey[top : top + len(part)] = np.nan_to_num(scaled)
    return Image.fromarray(grey)


def _strips(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Some rows at a time, and which is the first: whole pictures of float64 would take GBs."""
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield top, np.asarray(image.crop((0, top, image.width, bottom)))


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
