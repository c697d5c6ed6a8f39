"""CMYK pictures follow their profile.

A profile of a printing press has a megabyte, so one of 16 colours is made here: one for each
combination of four inks.
"""

import io
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.data.images import codec, profiles
from tests.data.images.test_fuzz_images import saved

FAULTS = Path(__file__).parents[1] / "faults"

INKS = list(itertools.product((0, 255), repeat=4))
"""Cyan, magenta, yellow and black; the last one changes first."""

PRINTED = np.random.default_rng(3).integers(40, 216, (16, 3))
"""The colour of each combination in sRGB, which is not what its inks are called."""
PRINTED[0], PRINTED[-1] = 255, 0

PATCHES = np.array(INKS, np.uint8).reshape(4, 4, 4).repeat(16, 0).repeat(16, 1)


def lab(colors: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D50) of sRGB colours (n, 3) from 0 to 255; sources: IEC 61966-2-1, ICC.1."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]]
    xyz = linear @ np.transpose(to_xyz) / (0.9642, 1.0, 0.8249)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (xyz * 24389 / 27 + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def cmyk_profile() -> bytes:
    """An ICC profile, version 2, whose table has a colour for each of ``INKS`` (``lut8Type``)."""
    nodes = np.round(lab(PRINTED) * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8)
    unit = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + unit + 4 * ramp + nodes.tobytes() + 3 * ramp
    text = b"text\0\0\0\0four inks\0"
    describing = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(12 + 67)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"desc": describing, b"cprt": text, b"wtpt": white, b"A2B0": table}
    index, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        index += struct.pack(">4sII", name, start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4xI", start + len(body), 0x02400000) + b"prtrCMYKLab " + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + index + body


def read(data: bytes) -> tuple[np.ndarray, list[str]]:
    """The colour of each patch (16, 3), and what is said of the picture."""
    notes: list[str] = []
    pixels = np.asarray(codec.decode(data, "x", 10**6, notes=notes)).astype(int)
    assert pixels.shape == (64, 64, 3)
    return pixels[8::16, 8::16].reshape(16, 3), notes


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_has_the_colors_that_its_profile_says(kind):
    profile = cmyk_profile()
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
    assert (opened.xcolor_space.strip(), opened.connection_space.strip()) == ("CMYK", "Lab")
    inks = Image.fromarray(PATCHES, "CMYK")
    found, notes = read(saved(inks, kind, icc_profile=profile))
    assert np.abs(found - PRINTED).max() <= 3  # steps of a* and b* are 1
    assert notes == []
    plain = np.asarray(inks.convert("RGB")).astype(int)[8::16, 8::16].reshape(16, 3)
    assert np.abs(plain - PRINTED).mean() > 50
    found, notes = read(saved(inks, kind))
    assert np.abs(found - plain).max() <= 2
    assert notes == []


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_with_a_profile_of_other_colors_is_read_without_it(kind):
    inks = Image.fromarray(PATCHES, "CMYK")
    found, notes = read(saved(inks, kind, icc_profile=profiles.adobe_rgb()))
    assert np.abs(found - read(saved(inks, kind))[0]).max() == 0
    assert notes == [profiles.LEFT_OUT]
    colors = inks.convert("RGB")
    found, notes = read(saved(colors, "TIFF", icc_profile=cmyk_profile()))
    assert np.abs(found - np.asarray(colors).astype(int)[8::16, 8::16].reshape(16, 3)).max() == 0
    assert notes == [profiles.LEFT_OUT]


def test_boxes_of_jpeg_2000_that_are_long_or_broken():
    picture = (FAULTS / "p3.jp2").read_bytes()
    at = picture.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", picture, at)
    long = picture[:at] + struct.pack(">I4sQ", 1, b"jp2h", length + 8) + picture[at + 8 :]
    found, expected = (np.asarray(codec.decode(data, "x", 10**6)) for data in (long, picture))
    assert (found == expected).all()
    notes: list[str] = []
    broken = picture[: picture.index(b"colr") - 4] + struct.pack(">I4s", 8, b"colr")
    assert profiles.find(Image.open(io.BytesIO(picture)), broken, notes) is None
    assert notes == [profiles.LEFT_OUT]
