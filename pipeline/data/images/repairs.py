"""Files as people have them: what a decoder would stumble over, and a picture does not need."""

import re
import struct
import zlib
from collections.abc import Iterator

MOST_INFLATED = 2**20
"""Bytes of a compressed part beside the pixels, of which a PNG's profile is the only one kept."""

PNG = b"\x89PNG\r\n\x1a\n"
END = b"\xff\xd9"


def without_extras(data: bytes) -> bytes:
    """A PNG without texts, times, frames and what else is not shown, whatever is wrong with them,
    and without a profile or EXIF that is broken or too large.

    What is no PNG, and the rest of one that is cut off, is returned as it is.
    """
    if not data.startswith(PNG):
        return data
    view = memoryview(data)
    kept: list[memoryview | bytes] = [PNG]
    at = len(PNG)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not name.isalpha():
            break
        is_critical = name[:1].isupper()  # if it is unknown, Pillow refuses it
        if is_critical or name == b"tRNS" or _is_sound_extra(name, view[at + 8 : end]):
            kept.append(view[at:end])
        at = end
        if name == b"IEND":
            return b"".join(kept)
    return b"".join([*kept, view[at:]])


def _is_sound_extra(name: bytes, rest: memoryview) -> bool:
    body, checksum = rest[:-4], int.from_bytes(rest[-4:], "big")
    if name not in (b"iCCP", b"eXIf") or len(body) > MOST_INFLATED:
        return False
    if zlib.crc32(body, zlib.crc32(name)) != checksum:
        return False
    if name == b"eXIf":
        return True
    packed = bytes(body).partition(b"\0")[2][1:]
    inflating = zlib.decompressobj()
    try:
        inflating.decompress(packed, MOST_INFLATED)
    except zlib.error:
        return False
    return not inflating.unconsumed_tail


def ended(data: bytes) -> Iterator[bytes]:
    """Two files of a JPEG that lacks its end marker alone, perhaps; else none.

    If they give the same pixels, nothing else is missing: the second has other data before the
    marker, which a decoder takes up that is not yet done.
    """
    if data.startswith(b"\xff\xd8") and END not in data[-64:] and _has_all_scans(data):
        yield data + END
        yield data + b"\x55\xaa" * 64 + END


def _has_all_scans(data: bytes) -> bool:
    """Whether a progressive JPEG has the last bits of all its numbers; true of others."""
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
