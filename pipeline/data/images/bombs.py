"""Files that would keep a decoder busy for hours or fill the memory, known by their headers.

Each check stands for a file that was seen to do so (``tests/data/images/test_fuzz_images.py``).
"""

import io
import math
import re
import struct

from PIL import Image

MOST_SCANS = 500
"""Of a JPEG; ten are usual. Each costs a pass over all pixels, however few bytes it has."""


class TiffReader(io.BytesIO):
    """A file whose parts may not be read again and again.

    2 MB can name the same strip 200 000 times, and Pillow would decode each of them.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = 16 * (len(data) + 2**20)

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.left -= len(part)
        if self.left < 0:
            raise OSError("its parts overlap")
        return part


def refuse_bombs(data: bytes) -> None:
    """Refuse small files that would keep a decoder busy for hours or fill the memory.

    Raises:
        ValueError: says what there is too much of.
    """
    if data.startswith(b"\xff\xd8"):
        # A start of scan: its length, and the number of components that goes with that length.
        scans = re.findall(rb"\xff\xda\0(?:\x06\0|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)", data)
        if len(scans) > MOST_SCANS:
            raise ValueError(f"{len(scans)} scans are more than {MOST_SCANS}")
        if data.count(b"Exif\0\0") > 500:  # Pillow copies all earlier ones for each
            raise ValueError("more than 500 EXIF segments")
    if data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        # The main header, and one of each part of a tile.
        for start in re.finditer(rb"\xff\x4f(?=\xff\x51)|\xff\x90\0\x0a.{8}", data, re.DOTALL):
            _check_jpeg2000_header(data, start.end())


def _check_jpeg2000_header(data: bytes, at: int) -> None:
    """OpenJPEG lays out all that a header claims before it reads on: 300 bytes can ask for 100 GB.

    Smaller blocks and precincts than are allowed here are legal, but nothing writes them.
    """
    siz, cod, coc = 0x51, 0x52, 0x53
    others = (0x50, 0x55, 0x57, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64)
    while data[at : at + 2] not in (b"\xff\x90", b"\xff\x93"):  # a part of a tile, its data
        fill, marker, length = struct.unpack_from(">BBH", data, at)
        body = data[at + 4 : at + 2 + length]
        if fill != 0xFF or marker not in (siz, cod, coc, *others):
            raise ValueError(f"unknown JPEG 2000 marker {fill:02x}{marker:02x}")
        if marker == siz and struct.unpack_from(">H", body, 34)[0] > 4:
            raise ValueError("more than 4 components")
        if marker in (cod, coc):
            first = 5 if marker == cod else 2
            levels, block_width, block_height = struct.unpack_from("BBB", body, first)
            if block_width + block_height < 4:  # powers of two, from 4 px
                raise ValueError("code blocks of less than 256 px")
            for level, precinct in enumerate(body[first + 5 :]):
                # In pixels of the whole picture: each level has half the size of the next.
                if min(precinct & 15, precinct >> 4) + levels - level < 6:
                    raise ValueError("precincts of less than 64 px")
        at += 2 + length


def check_tiles(image: Image.Image, max_pixels: int) -> None:
    """A TIFF of 64 x 64 px may have one tile of 60000 x 60000 px, which is decoded whole.

    Raises:
        ValueError: the tiles cover more than twice ``max_pixels``.
    """
    tags = getattr(image, "tag_v2", {})
    tile_width, tile_height = tags.get(322), tags.get(323)
    if not tile_width or not tile_height:
        return
    width = math.ceil(image.width / tile_width) * tile_width
    height = math.ceil(image.height / tile_height) * tile_height
    if width * height > 2 * max_pixels:
        raise ValueError(f"its tiles cover {width} x {height} px")
