"""Refuse files that would keep a decoder busy for hours or fill the memory, by their headers.

Each check has a file in ``tests/data/images/test_fuzz_images.py`` that did so.
"""

import io
import math
import re
import struct

from PIL import Image

MOST_SCANS = 500
"""Most scans of a JPEG; ten are usual. Each costs a pass over all pixels, even if it is tiny."""


class TiffReader(io.BytesIO):
    """A file in memory that may be read about 16 times in total, and no more.

    A TIFF of 2 MB can refer to one strip 200 000 times, and Pillow would decode each of them.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = 16 * (len(data) + 2**20)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as ``BytesIO`` does.

        Raises:
            OSError: too many bytes were read in total.
        """
        part = super().read(size)
        self.left -= len(part)
        if self.left < 0:
            raise OSError("its strips or tiles overlap")
        return part


def refuse_bombs(data: bytes) -> None:
    """Refuse a file that would keep a decoder busy for hours or fill the memory.

    Raises:
        ValueError: the message says what the file has too much of.
    """
    if data.startswith(b"\xff\xd8"):
        # A start of scan: its length, and the number of components that fits this length.
        scans = re.findall(rb"\xff\xda\0(?:\x06\0|\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)", data)
        if len(scans) > MOST_SCANS:
            raise ValueError(f"it has {len(scans)} scans, more than {MOST_SCANS}")
        if data.count(b"Exif\0\0") > 500:  # for each, Pillow copies all before it
            raise ValueError("more than 500 EXIF segments")
    if data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        # The main header, and the header of each part of a tile.
        for start in re.finditer(rb"\xff\x4f(?=\xff\x51)|\xff\x90\0\x0a.{8}", data, re.DOTALL):
            _check_jpeg2000_header(data, start.end())


def _check_jpeg2000_header(data: bytes, at: int) -> None:
    """Refuse headers that make OpenJPEG allocate too much: 300 bytes can ask for 100 GB.

    OpenJPEG allocates all that a header declares before it reads on. Smaller blocks and precincts
    than those allowed here are legal, but no program writes them.

    Raises:
        ValueError: the message says what is refused.
    """
    siz, cod, coc = 0x51, 0x52, 0x53
    others = (0x50, 0x55, 0x57, 0x58, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63, 0x64)
    while data[at : at + 2] not in (b"\xff\x90", b"\xff\x93"):  # a tile part, its data
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
                raise ValueError("code blocks of fewer than 256 px")
            for level, precinct in enumerate(body[first + 5 :]):
                # In pixels of the whole picture: each level has half the size of the next one.
                if min(precinct & 15, precinct >> 4) + levels - level < 6:
                    raise ValueError("precincts of less than 64 px")
        at += 2 + length


def check_tiles(image: Image.Image, max_pixels: int) -> None:
    """Refuse a TIFF with huge tiles: 64 x 64 px can have one tile of 60000 x 60000 px.

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
