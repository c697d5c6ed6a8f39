"""Opened images of any mode, depth and orientation to upright RGB in sRGB."""

import numpy as np
from PIL import ExifTags, Image

from pipeline.data.images import depths, profiles, tiff_tags, tiffs


def to_rgb(image: Image.Image, data: bytes = b"", notes: list[str] | None = None) -> Image.Image:
    """Convert an image to RGB: upright, in sRGB, transparency laid on white.

    Args:
        image: an image of any mode.
        data: its file, if there is one: it may hold a profile that Pillow ignores.
        notes: gets what is wrong with the image, or ignored in it.
    """
    notes = [] if notes is None else notes
    return _upright(_to_rgb(image, data, notes), orientation(image, notes))


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
    image = profiles.in_srgb(image, profile, notes)  # before white is laid under it, in sRGB
    if alpha is None:
        return image
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white


def _alpha(image: Image.Image) -> Image.Image | None:
    """Return the opacity of each pixel, or None if the image is opaque.

    An alpha channel of zeros alone is ignored if the image has colours: many programs leave the
    channel like that.
    """
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa"):
        return image.convert("RGBA").getchannel("A") if "transparency" in image.info else None
    alpha = image.getchannel("A" if image.mode[-1] == "A" else "a")
    if alpha.getextrema() == (0, 0):
        shown = image.convert("RGB") if image.mode in ("RGBA", "PA") else image.convert("LA")
        if any(len(set(channel.getextrema())) > 1 for channel in shown.split()):
            return None
    return alpha


def _samples(image: Image.Image, data: bytes) -> depths.Samples | None:
    """Return the samples of an image with more than 8 bits or a sign; None for all others.

    Pillow treats signed 8-bit samples as unsigned.
    """
    kind, bits, white_is_zero, told = "u", 16, False, None
    page = tiff_tags.picture(data) if image.format == "TIFF" else None
    found = tiffs.meaning(page) if page else None
    if found:
        kind, bits, white_is_zero, told = found
    elif image.mode == "F":
        kind = "f"
    elif image.mode == "I" and image.format is None:  # made by a program, not read from a file
        kind, bits = "i", 32
    is_signed = image.mode == "L" and kind == "i"
    if not is_signed and not image.mode.startswith("I") and image.mode != "F":
        return None

    def rows(top: int, bottom: int) -> depths.Part:
        part: depths.Part = np.asarray(image.crop((0, top, image.width, bottom)))
        if kind == "u" and bits == 32:  # Pillow's 32-bit integers are signed
            return part.view(np.uint32)
        return part.view(np.int8) if is_signed else part

    return depths.Samples(rows, image.width, image.height, kind, bits, white_is_zero, told)


def orientation(image: Image.Image, notes: list[str]) -> int:
    """Return how an image is turned, as EXIF has it: 1 is upright.

    Args:
        image: an opened image.
        notes: gets what is wrong with its EXIF.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF is no reason to refuse the picture
        notes.append("its EXIF is broken, and it may not be upright")
        return 1


def _upright(image: Image.Image, turned: int) -> Image.Image:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(turned)
    return image if turn is None else image.transpose(turn)
