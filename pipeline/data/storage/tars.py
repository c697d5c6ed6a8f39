"""Listing the members of an uncompressed tar by its headers, without reading their data."""

import tarfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.data.errors import RowError
from pipeline.data.storage import local
from pipeline.data.storage.failures import read_error, reason
from pipeline.data.storage.filesystems import StorageOptions, filesystem
from pipeline.data.storage.uris import redact

READ_AHEAD = 2**16
"""Bytes that one request for a header takes: small members come along, large ones are skipped."""

MOST_DATA = 2**20
"""Largest member in bytes whose data ``members_with_data`` reads."""

COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""First bytes of compressed files."""


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: its name; bytes that are no UTF-8 are surrogates, as Python's ``tarfile`` has them.
        offset: of its first byte in the tar.
        size: in bytes.
    """

    name: str
    offset: int
    size: int


def members_of_tar(uri: str, options: StorageOptions) -> Iterator[Member]:
    """Yield the files in an uncompressed tar, in order; links, folders and sparse files are not.

    Long names (pax and GNU) are read. A tar that is cut off is noticed at its end, after the
    members before the cut.

    Raises:
        RowError: ``not_found``, ``access_denied``, or ``read_failed``: it is compressed, cut off or
            no tar.
    """
    return (member for member, _ in members_with_data(uri, options, lambda name: False))


def members_with_data(
    uri: str, options: StorageOptions, wanted: Callable[[str], bool]
) -> Iterator[tuple[Member, bytes | None]]:
    """Yield what ``members_of_tar`` yields, and the data of some small members with them.

    Args:
        uri: the tar.
        options: storage options by scheme.
        wanted: tells by its name whether a member's data is read, if it is not too large.

    Raises:
        RowError: as ``members_of_tar``.
    """
    shown = redact(uri)
    try:
        fs, path = filesystem(uri, options)
        local.refuse_special(uri, fs, path)
        with fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead") as file:
            yield from _members(file, shown, wanted)
    except RowError:
        raise
    except tarfile.TarError as error:
        raise RowError(
            "read_failed",
            f"{shown}: is cut off or no tar ({reason(error)}); copy it again, or make it again",
        ) from error
    except Exception as error:  # each file system raises its own types
        raise read_error(uri, error) from error


def _members(
    file: Any, shown: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[Member, bytes | None]]:
    start = file.read(tarfile.BLOCKSIZE)
    packed = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
    if packed:
        raise RowError(
            "read_failed",
            f"{shown}: is compressed ({packed}), so that its members have no offsets; unpack it "
            "to a plain .tar",
        )
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it keeps all, perhaps millions
            if member.isreg() and not member.issparse():
                data = None
                if member.size <= MOST_DATA and wanted(member.name):
                    inside = tar.extractfile(member)
                    data = inside.read() if inside else None
                yield Member(member.name, member.offset_data, member.size), data
        # At a header that is cut off or damaged tarfile ends as if the tar did.
        file.seek(tar.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if end != bytes(tarfile.BLOCKSIZE):
            what = "is damaged" if len(end) == tarfile.BLOCKSIZE else "is cut off"
            raise RowError(
                "read_failed",
                f"{shown}: {what} at byte {tar.offset}, where the next member or the end mark "
                "should be; copy it again, or make it again",
            )
