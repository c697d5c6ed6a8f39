"""Image files that are broken or hostile: none may end a worker, hang it or fill its memory.

Each group of files is decoded in a process of its own, which tells before each file which one it
is, so that a crash, an abort or a hang names its file. ``mutated("GIF", 17)`` makes it again.
"""

import faulthandler
import functools
import io
import json
import random
import resource
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from pipeline.data.errors import RowError
from pipeline.data.images import codec, tiff_tags, tiffs

ROOT = Path(__file__).parents[3]
KINDS = (*codec.FORMATS, "MPO")
FILES = 1000
"""Mutated files of each kind: 10 000 in all."""

MAX_PIXELS = 2_000_000
SECONDS = 10
"""Seconds after which a file counts as a hang; the slowest takes a twentieth on an idle machine."""

MEGABYTES = 400
"""Memory in MB that no file may exceed: ten times 2 million RGB pixels with their copies."""

ERRORS = ("empty_file", "not_an_image", "truncated_image", "image_too_large", "image_too_small")


def saved(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def base_picture(mode: str = "RGB", width: int = 48, height: int = 40) -> Image.Image:
    """Soft waves with some noise, which are not trivial for any codec."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:height, 0:width]
    channels = [np.sin(x / a) * np.cos(y / b) * 100 + 128 for a, b in ((5, 7), (9, 4), (3, 11))]
    values = np.stack(channels, -1) + rng.normal(0, 4, (height, width, 3))
    rgb = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        rgb.putalpha(rgb.getchannel("G"))
    return rgb.convert(mode)


@functools.cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Sound files of one format in its variants."""
    make = functools.partial(saved, file_format=kind)
    rgb, grey = base_picture(), base_picture("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = {"save_all": True, "append_images": [rgb.rotate(90 * i) for i in range(1, 4)]}
    palette = rgb.quantize(17)
    if kind == "PNG":
        return (
            make(rgb, exif=exif, icc_profile=icc), make(base_picture("I;16")), make(palette),
            make(palette, transparency=3), make(rgb, transparency=(10, 20, 30)),
            make(base_picture("RGBA")), make(base_picture("LA")), make(base_picture("1")),
            make(palette, bits=4), make(rgb, **frames), interlaced_png(),
        )  # fmt: skip
    if kind == "JPEG":
        return (
            make(rgb, exif=exif, icc_profile=icc), make(rgb, progressive=True, exif=exif),
            make(base_picture("CMYK"), icc_profile=icc), make(grey), make(rgb, subsampling=0),
            make(rgb, restart_marker_blocks=2, comment=b"a comment"),
        )  # fmt: skip
    if kind == "WEBP":
        return (
            make(rgb, exif=exif, icc_profile=icc), make(rgb, lossless=True), make(rgb, **frames),
            make(base_picture("RGBA")), make(base_picture("RGBA"), lossless=True),
        )  # fmt: skip
    if kind == "TIFF":
        packed = ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "lzma", "zstd")
        return (
            make(rgb, exif=exif, icc_profile=icc), make(rgb, **frames), make(base_picture("I;16")),
            make(base_picture("F")), make(base_picture("I")), make(base_picture("CMYK")),
            make(palette), make(base_picture("LAB")), make(base_picture("YCbCr")), tiled_tiff(),
            make(base_picture("1"), compression="group4"), make(rgb, big_tiff=True),
            *deep_tiffs(),
            *(make(rgb, compression=name, exif=exif) for name in packed),
        )  # fmt: skip
    if kind == "GIF":
        return make(palette), make(palette, transparency=2), make(rgb, **frames, comment=b"hello")
    if kind == "BMP":
        modes = ("RGB", "RGBA", "L", "1")
        return *(make(base_picture(mode)) for mode in modes), make(palette), rle_bmp()
    if kind == "PPM":
        modes = ("RGB", "L", "1", "I;16", "F")
        plain = b"P3 # plain\n16 17 255\n" + b"12 200 7\n" * 272
        return *(make(base_picture(mode)) for mode in modes), plain, b"P6 16 16 31 " + b"\7" * 768
    if kind == "JPEG2000":
        return (
            make(rgb), make(rgb, no_jp2=True), make(base_picture("RGBA"), irreversible=True),
            make(base_picture("I;16")), make(rgb, tile_size=(32, 16), quality_layers=[40, 10]),
            make(grey, num_resolutions=2, progression="RPCL"),
        )  # fmt: skip
    if kind == "AVIF":
        return (
            make(rgb, exif=exif, icc_profile=icc), make(base_picture("RGBA")), make(rgb, **frames),
            make(rgb, subsampling="4:4:4", quality=100),
        )  # fmt: skip
    return make(rgb, **frames, exif=exif), make(grey, save_all=True, append_images=[grey])


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, color: int, interlaced: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def interlaced_png() -> bytes:
    """An interlaced PNG of 16 x 16 px in Adam7's seven passes, as Pillow cannot write one."""
    passes = ((2, 2), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8))
    rows = b"".join((b"\0" + bytes(range(width))) * height for width, height in passes)
    return png_header(16, 16, 0, 1) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes, order: str = "<") -> bytes:
    """A TIFF with one directory at byte 8, (type, count, value) by tag, followed by ``tail``."""
    body = struct.pack(f"{order}H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        small = f"{order}HHIHH" if kind == 3 and count == 1 else f"{order}HHII"
        parts = (tag, kind, count, value, 0)[: 5 if kind == 3 and count == 1 else 4]
        body += struct.pack(small, *parts)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + body + bytes(4) + tail


def grey_tags(width: int, height: int, compression: int = 1) -> dict[int, tuple[int, int, int]]:
    """The tags of a grey 8-bit TIFF, except the place of its pixels."""
    short = {258: 8, 259: compression, 262: 1, 277: 1}
    return {
        256: (4, 1, width),
        257: (4, 1, height),
        **{tag: (3, 1, value) for tag, value in short.items()},
    }


def after(tags: int) -> int:
    """The place of the tail in a TIFF of so many tags."""
    return 8 + 2 + 12 * tags + 4


def tiled_tiff() -> bytes:
    """Four uncompressed tiles of 16 x 16 px, in the byte order that Pillow does not write."""
    tags = grey_tags(32, 32) | {322: (4, 1, 16), 323: (4, 1, 16), 324: (4, 4, 0), 325: (4, 4, 0)}
    start = after(len(tags))
    tags |= {324: (4, 4, start), 325: (4, 4, start + 16)}
    places = struct.pack(">8I", *(start + 32 + 256 * i for i in range(4)), *[256] * 4)
    return tiff(tags, places + bytes(range(256)) * 4, ">")


def deep_tiffs() -> tuple[bytes, ...]:
    """12 bits with white as zero; compressed signed 16 bits; float64 in tiles."""
    tags = grey_tags(32, 32) | {273: (4, 1, after(10)), 278: (4, 1, 32), 339: (3, 1, 1)}
    twelve = tags | {258: (3, 1, 12), 262: (3, 1, 0), 279: (4, 1, 1536)}
    twelve[273] = (4, 1, after(len(twelve)))
    packed = zlib.compress(np.arange(-512, 512, dtype="<i2").tobytes())
    signed = tags | {258: (3, 1, 16), 259: (3, 1, 8), 339: (3, 1, 2), 279: (4, 1, len(packed))}
    signed[273] = (4, 1, after(len(signed)))
    tiles = grey_tags(16, 32) | {258: (3, 1, 64), 339: (3, 1, 3)}
    tiles |= {322: (3, 1, 16), 323: (3, 1, 16), 324: (4, 2, 0), 325: (4, 2, 0)}
    start = after(len(tiles))
    tiles |= {324: (4, 2, start), 325: (4, 2, start + 8)}
    places = struct.pack(">4I", start + 16, start + 16 + 2048, 2048, 2048)
    doubles = np.linspace(0, 1, 512).astype(">f8").tobytes()
    first, last = tiff(twelve, bytes(range(256)) * 6), tiff(tiles, places + doubles, ">")
    return first, tiff(signed, packed), last


def rle_bmp() -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, 0, 0, 0, 4, 0)
    colors = bytes([0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0])
    rows = b"\x10\x01\0\0" * 8 + b"\0\x06\1\2\3\1\2\3\x0a\2\0\0" * 7 + b"\0\2\3\1\x04\1\0\1"
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 16) + head + colors + rows


def place(rng: random.Random, data: bytearray) -> int:
    """Anywhere, but most often near the start, where headers are."""
    return rng.randrange(min(len(data), rng.choice((32, 256, 2048, len(data)))) or 1)


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        data[place(rng, data)] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    start, length = place(rng, data), rng.choice((1, 4, 16, 64))
    same = bytes([rng.choice((0, 255, rng.randrange(256)))]) * length
    data[start : start + length] = rng.choice((same, rng.randbytes(length)))


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data) + 1) :]


def duplicate(data: bytearray, rng: random.Random) -> None:
    start, target = place(rng, data), place(rng, data)
    data[target:target] = data[start : start + rng.choice((1, 12, 100, 1000))]


def remove(data: bytearray, rng: random.Random) -> None:
    start = place(rng, data)
    del data[start : start + rng.choice((1, 2, 12, 100))]


def extreme_number(data: bytearray, rng: random.Random) -> None:
    width, start = rng.choice((2, 4)), place(rng, data)
    whole = 1 << (8 * width)
    numbers = (0, 1, whole - 1, whole // 2, whole // 2 - 1, whole // 4, len(data), 65536, 17)
    number = rng.choice(numbers) % whole
    data[start : start + width] = number.to_bytes(width, rng.choice(("little", "big")))


def splice(data: bytearray, rng: random.Random) -> None:
    other = rng.choice(originals(rng.choice(KINDS)))
    data[place(rng, data) :] = other[rng.randrange(len(other)) :]


MUTATIONS = (
    flip_bits, flip_bits, overwrite, truncate, duplicate, remove, extreme_number, extreme_number,
    splice,
)  # fmt: skip


def mutated(kind: str, number: int) -> bytes:
    rng = random.Random(f"{kind} {number}")
    data = bytearray(rng.choice(originals(kind)))
    for _ in range(rng.choice((1, 1, 2, 5))):
        rng.choice(MUTATIONS)(data, rng)
        data = data or bytearray(1)
    if data.startswith(b"\x89PNG") and number % 4:
        return with_checksums(bytes(data))  # else Pillow stops at the first wrong one
    return bytes(data)


def with_checksums(png: bytes) -> bytes:
    made, rest = png[:8], png[8:]
    while len(rest) >= 12:
        length, name = struct.unpack(">I4s", rest[:8])
        if length > len(rest) - 12:
            break
        made += chunk(name, rest[8 : 8 + length])
        rest = rest[12 + length :]
    return made + rest


def hostile_pngs() -> dict[str, tuple[bytes, str]]:
    end = chunk(b"IDAT", zlib.compress(bytes(33 * 32))) + chunk(b"IEND", b"")
    head = png_header(32, 32, 0, 0)
    zeros = zlib.compress(bytes(1_000_000), 9)
    texts = b"".join(chunk(b"zTXt", b"key%d\0\0" % i + zeros) for i in range(100))
    icc = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(16_000_000), 9))
    upside_down = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\4\0\1\0\0\0\xff\xff\xff\xff\0\0\0\0"
    return {
        "png of 60000 x 60000": (png_header(60000, 60000, 2, 0) + end, "image_too_large"),
        "png of 2^31 x 2^31": (png_header(2**31 - 1, 2**31 - 1, 2, 0) + end, "image_too_large"),
        "png, 100 MB of text in 100 KB": (head + texts + end, "image"),
        "png, profile of 16 MB in 16 KB": (head + icc + end, "image"),
        "png, huge orientation": (head + chunk(b"eXIf", upside_down[6:]) + end, "image"),
        "png, 20000 chunks": (head + chunk(b"prVt", b"") * 20_000 + end, "image"),
        "png, pixels without end": (
            head + chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9)) + chunk(b"IEND", b""),
            "image",
        ),
    }


def hostile_jpegs() -> dict[str, tuple[bytes, str]]:
    sound = saved(base_picture(), "JPEG")
    large = saved(base_picture("L", 1400, 1400), "JPEG", progressive=True)
    size = sound.index(b"\xff\xc0") + 5
    empty_scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0"
    exif = b"\xff\xe1\xff\xffExif\0\0" + bytes(65535 - 8)
    return {
        "jpeg of 65535 x 65535": (
            sound[:size] + b"\xff" * 4 + sound[size + 4 :], "image_too_large"
        ),
        "jpeg larger than its scan": (
            sound[:size] + b"\x05\x70\x05\x70" + sound[size + 4 :], "image"
        ),
        "jpeg of 20000 scans": (large[:-2] + empty_scan * 20_000 + large[-2:], "not_an_image"),
        "jpeg of 400 scans": (large[:-2] + empty_scan * 400 + large[-2:], "image"),
        "jpeg, many small EXIF segments": (
            sound[:2] + exif * 40 + b"\xff\xe1\0\x09Exif\0\0x" * 50_000 + sound[2:], "not_an_image"
        ),
    }  # fmt: skip


def hostile_tiffs() -> dict[str, tuple[bytes, str]]:
    half = bytes(1400 * 700)
    strips = grey_tags(1400, 1400)
    strips |= {273: (4, 200_000, after(9) + len(half)), 278: (4, 1, 700), 279: (4, 1, len(half))}
    again = struct.pack("<I", after(9)) * 200_000
    inflated = zlib.compress(bytes(8192**2), 9)
    tile = {322: (4, 1, 8192), 323: (4, 1, 8192), 324: (4, 1, after(10)), 325: (4, 1, 300_000)}
    many = {273: (4, 2**32 - 1, after(9)), 278: (4, 1, 1), 279: (4, 2**32 - 1, after(9))}
    here = {273: (4, 1, after(9)), 278: (4, 1, 32), 279: (4, 1, 1024)}
    overlapping = dict.fromkeys(range(40000, 60000), (1, 1000000, 8))
    pixels = bytes(1024)
    loop = bytearray(tiff(grey_tags(32, 32) | here, pixels))
    loop[after(9) - 4 : after(9)] = struct.pack("<I", 8)
    reduced = {254: (4, 1, 1)}
    thumbnails = bytearray(
        tiff(grey_tags(32, 32) | reduced | here | {273: (4, 1, after(10))}, pixels)
    )
    thumbnails[after(10) - 4 : after(10)] = struct.pack("<I", 8)
    twice = bytearray(tiff(grey_tags(32, 32) | here | overlapping, bytes(1_000_000)))
    for number in range(9, 5009):
        twice[10 + 12 * number : 12 + 12 * number] = struct.pack("<H", 339)
    return {
        "tiff, one strip 200000 times": (tiff(strips, half + again), "truncated_image"),
        "tiff, a tile of 8192 x 8192": (
            tiff(grey_tags(64, 64, 8) | tile, inflated), "truncated_image"
        ),
        "tiff, 2^32 strips": (tiff(grey_tags(32, 32) | many, pixels), "not_an_image"),
        "tiff, strip behind the end": (
            tiff(grey_tags(32, 32) | here | {273: (4, 1, 2**31)}, pixels), "truncated_image"
        ),
        "tiff, directory that is its own next": (bytes(loop), "image"),
        "tiff, thumbnail that is its own next": (bytes(thumbnails), "image"),
        "tiff, one tag 5000 times": (bytes(twice), "not_an_image"),
        "tiff, a kind of page that is no number": (
            tiff(reduced | {254: (11, 1, 0x7FC00000)}, pixels),
            "not_an_image",
        ),
        "tiff, 20000 tags of one megabyte": (
            tiff(grey_tags(32, 32) | here | overlapping, bytes(1_000_000)), "image"
        ),
        "tiff, numbers for a profile": (
            tiff(rgb_tags() | {34675: (3, 1, 7)}, bytes(3 * 1024)), "image"
        ),
        "tiff of 2^32 x 2^32": (
            tiff(grey_tags(2**32 - 1, 2**32 - 1) | here, pixels), "image_too_large"
        ),
    }  # fmt: skip


def rgb_tags() -> dict[int, tuple[int, int, int]]:
    """The tags of a colour TIFF of 32 x 32 px, except one."""
    return grey_tags(32, 32) | {
        258: (3, 1, 8), 262: (3, 1, 2), 277: (3, 1, 3), 273: (4, 1, after(10)), 278: (4, 1, 32),
        279: (4, 1, 3072),
    }  # fmt: skip


def hostile_gifs() -> dict[str, tuple[bytes, str]]:
    sound = saved(base_picture("L", 32, 32), "GIF")
    frame = sound.index(b",\0\0\0\0\x20\0\x20\0")
    head, body = sound[:frame], sound[frame:-1]
    outside = b",\x60\xea\x60\xea" + sound[frame + 5 :]
    return {
        "gif of 65535 x 65535": (sound[:6] + b"\xff" * 4 + sound[10:], "image_too_large"),
        "gif, frame far outside": (head + outside, "image_too_large"),
        "gif of 20000 frames": (head + body * 20_000 + b";", "image"),
        "gif of 200000 comments": (head + b"!\xfe\1x\0" * 200_000 + body + b";", "image"),
        "gif, comment of 5 MB": (
            head + b"!\xfe" + (b"\xff" + b"x" * 255) * 20_000 + b"\0" + body + b";", "image"
        ),
    }  # fmt: skip


def hostile_jpeg2000s() -> dict[str, tuple[bytes, str]]:
    jp2 = saved(base_picture("RGB", 1400, 1400), "JPEG2000", quality_layers=[2000])
    start, cod = jp2.index(b"\xff\x4f\xff\x51"), jp2.index(b"\xff\x52")
    parts = struct.pack(">HHIIIIIIIIH", 38 + 3 * 16384, 0, 1400, 1400, 0, 0, 8, 8, 0, 0, 16384)
    components = b"\xff\x4f\xff\x51" + parts + b"\7\1\1" * 16384 + jp2[cod:]
    levels, length = jp2[cod + 9], struct.unpack_from(">H", jp2, cod + 2)[0]
    style = struct.pack(">HHB", 0xFF52, 13 + levels, 1) + jp2[cod + 5 : cod + 14]
    precincts = style + b"\0" + b"\x11" * levels
    return {
        # A box before the codestream hides its header from Pillow.
        "jpeg 2000, 16384 components": (
            jp2[: start - 8] + b"\0\0\0\x08free\0\0\0\0jp2c" + components, "not_an_image"
        ),
        "jpeg 2000, precincts of 2 x 2": (
            jp2[:cod] + precincts + jp2[cod + 2 + length :], "not_an_image"
        ),
        "jpeg 2000, blocks of 4 x 4": (
            jp2[: cod + 10] + b"\0\0" + jp2[cod + 12 :], "not_an_image"
        ),
        "jpeg 2000, unknown marker": (jp2[:cod] + b"\xff\x30" + jp2[cod:], "not_an_image"),
        "jpeg 2000, 65535 layers": (jp2[: cod + 6] + b"\xff\xff" + jp2[cod + 8 :], "image"),
    }  # fmt: skip


def hostile_others() -> dict[str, tuple[bytes, str]]:
    webp = bytearray(saved(base_picture(), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 16382 | 16382 << 14)
    canvas = bytearray(saved(base_picture("RGBA"), "WEBP", lossless=True, icc_profile=b"x"))
    canvas[24:30] = b"\xff\x3f\0" * 2
    tags = struct.pack("<H", 40_000)
    tags += b"".join(struct.pack("<HHII", i + 1, 1, 900_000, 8) for i in range(40_000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + tags + bytes(500_000)
    avif = bytearray(saved(base_picture("RGB", 2000, 1000), "AVIF"))
    size = avif.index(b"ispe") + 8
    avif[size : size + 8] = struct.pack(">II", 64, 64)
    larger = avif.copy()
    larger[size : size + 8] = struct.pack(">II", 30_000, 30_000)
    dark = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38] * 64, np.float32).tobytes()
    wide = bytearray(rle_bmp()[:70] + b"\0\2\xff\xff" * 10_000)
    wide[18:26] = struct.pack("<ii", 100_000, 20)
    return {
        "webp of 16383 x 16383": (bytes(webp), "image_too_large"),
        "webp, canvas of 16384 x 16384": (bytes(canvas), "not_an_image"),
        "webp, EXIF of 40000 tags of 900 KB": (
            saved(base_picture(), "WEBP", lossless=True, exif=exif), "image"
        ),
        "avif, smaller than its pixels": (bytes(avif), "image"),
        "avif of 30000 x 30000": (bytes(larger), "not_an_image"),
        "ppm of 10 digits": (b"P5 4294967295 4294967295 255 \0", "image_too_large"),
        "ppm without pixels": (b"P6 1400 1400 255\n", "truncated_image"),
        "ppm, comment without end": (b"P6 " + b"#" * 1_000_000, "not_an_image"),
        "pfm of no numbers": (b"Pf 20 16 -1.0\n" + dark, "image"),
        "bmp, skips of 255 lines": (bytes(wide), "image"),
    }  # fmt: skip


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files made to be expensive, by name, with the result that each must have."""
    return {
        **hostile_pngs(), **hostile_jpegs(), **hostile_tiffs(), **hostile_gifs(),
        **hostile_jpeg2000s(), **hostile_others(),
    }  # fmt: skip


def outcome(data: bytes) -> str:
    """The result of a file: ``image``, an error class, or in capitals what went wrong."""
    try:
        image = codec.decode(data, "x", MAX_PIXELS)
    except RowError as error:
        if isinstance(error.__cause__, MemoryError):
            return "MEMORY"
        if error.error_class not in ERRORS or len(str(error).splitlines()) != 1:
            return f"UNDOCUMENTED {error.error_class}: {error}"
        return error.error_class
    except BaseException as error:
        return f"RAISED {error!r}"
    if image.mode != "RGB" or not 16 * 16 <= len(image.tobytes()) // 3 <= MAX_PIXELS:
        return f"MADE {image!r}"
    return "image"


def work(kind: str) -> None:
    """Decode a group of files in the child process and report each result."""
    if kind == "hostile":
        files = hostile()
    else:
        files = {str(number): (mutated(kind, number), None) for number in range(FILES)}
    # Far above the limit that the test checks: this only protects the machine.
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    for name, (data, expected) in files.items():
        print(json.dumps(name), end=" ", flush=True)
        # A thread in C: it ends the process even while a decoder holds the interpreter lock.
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ended = outcome(data)
        after_it = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        faulthandler.cancel_dump_traceback_later()
        if after_it - before > MEGABYTES * 1024:
            ended = f"TOOK {(after_it - before) >> 10} MB"
        if expected not in (None, ended):
            ended = f"{ended}, NOT {expected}"
        print(json.dumps(ended), flush=True)


def decode_in_a_child(kind: str) -> dict[str, str]:
    """Return the result of each file of a group.

    Raises:
        AssertionError: the process died or hung; the message names the file.
    """
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.data.images.test_fuzz_images", kind],
        cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=240, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{kind} {lines[-1:]} ended the process: {done.stderr[-2000:]}"
    decoder = json.JSONDecoder()
    ended = {}
    for line in lines:
        name, end = decoder.raw_decode(line)
        ended[name] = json.loads(line[end:])
    return ended


def faults(ended: dict[str, str]) -> dict[str, str]:
    return {name: end for name, end in ended.items() if end not in ("image", *ERRORS)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_an_image_or_a_row_error(kind):
    ended = decode_in_a_child(kind)
    assert len(ended) == FILES
    assert not faults(ended)
    counts = Counter(ended.values())
    print(kind, dict(counts.most_common()))
    # Mutations that change nothing, or break every file, would test nothing.
    assert FILES // 50 < counts["image"] < FILES - FILES // 50


def test_a_hostile_file_costs_neither_time_nor_memory():
    assert not faults(decode_in_a_child("hostile"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_that_are_mutated_are_sound(kind):
    for data in originals(kind):
        assert codec.decode(data, "x", MAX_PIXELS).mode == "RGB"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_turned_as_pillow_does(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(base_picture(), kind, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert codec.decode(data, "x", MAX_PIXELS).tobytes() == expected.tobytes()


def test_a_sample_of_a_million_bits_is_none():
    """Two to the power of billions of bits would fill the memory."""
    tags = {**grey_tags(16, 16), 258: (4, 1, 10**6), 281: (4, 1, 2**16 - 1)}
    data = tiff(tags | {273: (4, 1, 200), 279: (4, 1, 256)}, bytes(512))
    assert tiffs.meaning(tiff_tags.picture(data)) is None
    with pytest.raises(RowError):
        codec.decode(data, "x", 10**6)


def test_a_later_page_that_is_cut_off_within_a_tag_is_passed_over():
    first = {**grey_tags(16, 16), 254: (4, 1, 1), 273: (4, 1, 400), 279: (4, 1, 256)}
    data = bytearray(tiff(first, bytes(600)))
    end = 8 + 2 + 12 * len(first)  # where the place of the next directory is
    data[end : end + 4] = struct.pack("<I", len(data))
    entries = [(254, 4, 1, 0), (256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 4, 0)]
    page = struct.pack("<H", len(entries))
    page += b"".join(struct.pack("<HHII", *entry) for entry in entries)
    cut = tiff_tags.picture(bytes(data) + page[:-4])
    assert cut is None or cut.page == 0


if __name__ == "__main__":
    work(sys.argv[1])
