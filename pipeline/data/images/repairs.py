"""Make slightly damaged PNG, GIF and JPEG files readable, and note what is wrong with them."""

import re
import struct
import zlib
from collections.abc import Iterator

from pipeline.data.words import some_of

MOST_INFLATED = 2**20
"""Largest PNG chunk besides the pixels in bytes; also the largest profile after decompression."""

PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG."""

END = b"\xff\xd9"
"""End marker of a JPEG."""

NO_END = "its end is missing or broken"
"""The note about a truncated file."""

FOLLOWED = {b"iCCP": "colour profile", b"eXIf": "EXIF"}
"""Optional PNG chunks that change how the picture looks, with their names for notes."""


def without_extras(data: bytes, notes: list[str]) -> bytes:
    """Remove from a PNG what is not needed to show it, even if it is broken.

    Texts, times, frames and the like are removed, and so is a profile or EXIF that is broken or too
    large. Other files are returned unchanged, and so is the rest of a truncated PNG.

    Args:
        data: a file of any format.
        notes: gets what is damaged (also about a GIF without an end), and which profile or EXIF was
            left out.
    """
    if not data.startswith(PNG):
        if data.startswith(b"GIF8") and not data[-64:].rstrip(b"\0\r\n").endswith(b";"):
            notes.append(NO_END)
        return data
    view = memoryview(data)
    kept: list[memoryview | bytes] = [PNG]
    wrong: dict[str, None] = {}  # an ordered set of chunk names
    at, ended = len(PNG), False
    while not ended and at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not name.isalpha():
            break
        is_sound = zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if not is_sound:
            wrong[name.decode()] = None
        is_critical = name[:1].isupper()  # Pillow refuses unknown critical chunks
        if is_critical or name == b"tRNS":
            kept.append(view[at:end])
        elif name in FOLLOWED:
            if is_sound and _is_usable(name, view[at + 8 : end - 4]):
                kept.append(view[at:end])
            else:
                notes.append(f"its {FOLLOWED[name]} is broken or too large and was left out")
        at, ended = end, name == b"IEND"
    if wrong:
        notes.append(f"the checksum of {some_of([*wrong])} is wrong")
    if not ended:
        notes.append(NO_END)
    return b"".join([*kept, view[len(data) if ended else at :]])


def _is_usable(name: bytes, body: memoryview) -> bool:
    if name == b"eXIf" or len(body) > MOST_INFLATED:
        return len(body) <= MOST_INFLATED
    packed = bytes(body).partition(b"\0")[2][1:]
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(packed, MOST_INFLATED)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail


def ended(data: bytes) -> Iterator[bytes]:
    """Yield two completions of a JPEG that may lack only its end marker; none for other files.

    If both decode to the same pixels, only the marker was missing. The second has extra data before
    the marker, which changes the pixels if the decoder still needs data.
    """
    if data.startswith(b"\xff\xd8") and END not in data[-64:] and _has_all_scans(data):
        data = data.removesuffix(END[:1])
        yield data + END
        yield data + b"\x55\xaa" * 64 + END


def _has_all_scans(data: bytes) -> bool:
    """Return whether a JPEG has all its scans.

    A progressive one needs the last bits of all coefficients. It is True of all other JPEGs.
    """
    start = re.search(rb"\xff\xc2\0.\x08....([\x01\x03\x04])", data, re.DOTALL)
    if not start:
        return True
    done: set[tuple[int, int]] = set()
    for scan in re.finditer(rb"\xff\xda\0([\x08\x0a\x0c\x0e])([\x01-\x04])", data):
        count = scan[2][0]
        last = data[scan.end() + 2 * count :][:3]
        if scan[1][0] == 6 + 2 * count and len(last) == 3 and not last[2] & 15:
            some = data[scan.end() : scan.end() + 2 * count : 2]
            done |= {(name, place) for name in some for place in range(last[0], last[1] + 1)}
    return len(done) >= 64 * start[1][0]
