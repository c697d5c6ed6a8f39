"""Bytes to RGB pixels and back, through Pillow. Nothing that a file holds may end a worker."""

import hashlib
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pipeline.data.errors import RowError

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), RGB, 0 to 255."""

SMALLEST = 16
"""Pixels: VGG-19's fifth block sees one position of an image whose edge is 16 px."""

MULTIPLE = 16
"""Sides are rounded to it: VGG-19 halves four times, and equal shapes can share a batch."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "MPO", "JPEG2000", "AVIF")
"""What is opened. Pillow knows more, some of it by way of other programs (EPS by Ghostscript)."""

Image.MAX_IMAGE_PIXELS = None  # the limit is checked below, with the job's own number


def decode(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """An RGB image of the first frame, upright, in sRGB, transparency laid on white.

    Args:
        data: a file's content.
        name: its URI for messages, free of credentials.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        RowError: ``empty_file``, ``not_an_image``, ``truncated_image``, ``image_too_large`` or
            ``image_too_small``.
    """
    if not data:
        raise RowError("empty_file", f"{name}: the file is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise RowError("not_an_image", f"{name}: not an image that Pillow can read") from error
    except Exception as error:
        raise RowError("not_an_image", f"{name}: broken image header: {error}") from error
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
        image.load()
        return _to_rgb(_upright(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ...
        raise RowError(
            "truncated_image", f"{name}: the image data is truncated or corrupt: {error}"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to refuse the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a broken profile is no reason to refuse the picture
        if converted is not None:
            return converted
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its full range; 32-bit and float grey, which have none, by their own."""
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < values.max() <= 65535):
        low, high = 0.0, 65535.0
    elif np.isfinite(values).all() and (values.min() < 0 or values.max() > 255):
        low, high = float(values.min()), float(values.max())
    else:
        low, high = 0.0, 255.0
    scaled = np.nan_to_num((values - low) / (high - low)) * 255
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def fit_size(
    width: int, height: int, image_size: float, image_edge: str, max_pixels: int
) -> tuple[int, int]:
    """Width and height for ``image_size`` on the long or short edge, aspect kept.

    Both are rounded to a multiple of 16 px (a shift of the aspect by at most 8 px), at least 32.

    Raises:
        RowError: ``image_too_large``, when a narrow image would become one of more than
            ``max_pixels``.
    """
    edge = max(width, height) if image_edge == "long" else min(width, height)
    scale = image_size / edge
    rounded = [max(32, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height)]
    if rounded[0] * rounded[1] > max_pixels:
        raise RowError(
            "image_too_large",
            f"{width} x {height} px with {image_size:g} px on the {image_edge} edge would be "
            f"{rounded[0]} x {rounded[1]} px, more than max_pixels = {max_pixels}",
        )
    return rounded[0], rounded[1]


def resize(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """(width, height) -> (H, W, 3), Lanczos; large reductions go by way of a box filter."""
    resized = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8)


def encode(pixels: Pixels, file_format: str, quality: int) -> bytes:
    """A PNG, JPEG or WebP file of (H, W, 3) pixels.

    Args:
        file_format: ``png``, ``jpg`` or ``webp``.
        quality: 1 to 100, of jpg and webp.
    """
    options: dict[str, Any] = {"format": "PNG", "compress_level": 4}
    if file_format == "jpg":
        options = {"format": "JPEG", "quality": quality, "subsampling": 0}
    if file_format == "webp":
        options = {"format": "WEBP", "quality": quality}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
