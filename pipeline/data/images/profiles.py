"""Find the colour profile of an image and convert the image to sRGB with it."""

import io
import struct

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from pipeline.data.images import tiff_tags

LONGEST = 2**24
"""Largest profile in bytes that is used; those of printers have a few MB."""

GREY = ("1", "L", "LA", "La")
"""Pillow's modes that a grey profile describes."""

EXIF, COLOR_SPACE, INTEROPERABILITY, RULES = 34665, 40961, 40965, 1
"""Tag numbers in EXIF (a TIFF): two lead to inner directories, two state the colour space."""

LEFT_OUT = "its colour profile cannot be followed and was left out"
"""The note about an image whose profile is broken, too large or of another mode."""

_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
"""Pillow's mode by the colour space in a profile's header."""


def find(image: Image.Image, data: bytes, notes: list[str]) -> bytes | None:
    """Return the ICC profile of an opened image, or Adobe RGB's if its EXIF says so.

    Args:
        image: the image.
        data: its file: JPEG 2000 and BMP hold profiles that Pillow ignores.
        notes: gets ``LEFT_OUT`` if there is a profile that cannot be used.
    """
    profile = image.info.get("icc_profile")
    try:
        if not profile and image.format == "JPEG2000":
            profile = _of_jpeg2000(data)
        if not profile and image.format == "BMP":
            profile = _of_bmp(data)
        if not profile and image.mode not in GREY:
            exif = data if image.format == "TIFF" else image.info.get("exif", b"")
            profile = adobe_rgb() if _is_adobe_rgb(exif) else None
    except Exception:  # broken metadata is no reason to refuse the picture
        notes.append(LEFT_OUT)
        return None
    usable = isinstance(profile, bytes) and 128 < len(profile) <= LONGEST
    if profile and not usable:
        notes.append(LEFT_OUT)
    return profile if usable else None


def in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to RGB, by the profile if it fits the mode.

    Args:
        image: the image.
        profile: an ICC profile, if any.
        notes: gets ``LEFT_OUT`` if the profile cannot be used.
    """
    mode = _SPACES.get(profile[16:20]) if profile else None
    if profile and (mode == image.mode or (mode, image.mode) == ("RGB", "L")):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            given = image if image.mode == mode else image.convert(mode)
            converted = ImageCms.profileToProfile(given, source, target, outputMode="RGB")
            if converted is not None:
                return converted
        except Exception:  # noqa: S110  a broken profile is no reason to refuse the picture
            pass
    if profile:
        notes.append(LEFT_OUT)
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy


def curve(profile: bytes | None, notes: list[str]) -> npt.NDArray[np.float64] | None:
    """Return what a profile makes of grey 0 to 255, for deep grey images.

    Args:
        profile: an ICC profile, if any.
        notes: gets ``LEFT_OUT`` if the profile cannot be used.

    Returns:
        (256,), from 0 to 255; None if the profile changes nothing.
    """
    if not profile:
        return None
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    values = np.asarray(in_srgb(ramp, profile, notes), np.float64)[0].mean(axis=1)
    return None if np.abs(values - np.arange(256)).max() < 1 else values


def _is_adobe_rgb(exif: bytes) -> bool:
    """Return whether EXIF states Adobe RGB.

    Cameras embed no profile. They write the colour space "uncalibrated" and the interoperability
    index R03 (DCF 2.0).
    """
    exif = exif.removeprefix(b"Exif\0\0")
    found = tiff_tags.directories(exif, (COLOR_SPACE,), EXIF)
    space = found.one(COLOR_SPACE, 0) if found else 0
    if space == 2:  # not in the standard, but written by some cameras
        return True
    found = tiff_tags.directories(exif, (RULES,), EXIF, INTEROPERABILITY)
    return space == 0xFFFF and found is not None and bytes(found.tags[RULES][:3]) == b"R03"


def _of_jpeg2000(data: bytes) -> bytes | None:
    """Return the profile in the first box ``colr`` of the box ``jp2h``, which decoders use."""
    for name, header in _boxes(data):
        if name == b"jp2h":
            for inner, body in _boxes(header):
                if inner == b"colr":
                    return body[3:] if body[0] in (2, 3) else None
        if name == b"jp2c":
            break
    return None


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at + 8 <= len(data) and len(found) < 1000:
        length, name = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = at + length if length else len(data)
        if not begin <= end <= len(data):
            end = len(data)
        found.append((name, data[begin:end] if name != b"jp2c" else b""))
        at = end
    return found


def _of_bmp(data: bytes) -> bytes | None:
    """Return the profile of a BMP with a header of version 5."""
    size, kind = struct.unpack_from("<I52x4s", data, 14)
    if size != 124 or kind != b"DEBM":  # "MBED" backwards
        return None
    place, length = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + place : 14 + place + length]


def adobe_rgb() -> bytes:
    """Return an ICC profile of Adobe RGB (1998): its primaries, adapted to D50, and its gamma."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(563 / 256 * 256)) + b"\0\0"
    text = b"text\0\0\0\0Adobe RGB (1998)\0\0\0\0"
    describing = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"A98C\0" + bytes(12 + 67)
    tags = {
        b"desc": describing + bytes(-len(describing) % 4),
        b"cprt": text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(value))
        body += value
    size = start + len(body)
    head = struct.pack(">I4xI", size, 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body
