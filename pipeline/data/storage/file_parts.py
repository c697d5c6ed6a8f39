"""Bytes inside a file as URIs: a picture in a Parquet table, a member of a tar.

    FILE#image=COLUMN&group=G&row=R            row R of row group G, both from 0
    FILE#image=COLUMN&group=G&row=R&item=I     picture I of the row's list
    FILE#member=NAME&offset=O&size=S           a member of an uncompressed tar

``files.read_bytes`` and ``files.version`` take such URIs, so that plans, records and reports need
not know of them. Only a URI that ends exactly so is a part; any other ``#`` belongs to a name.
"""

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.storage import local, parquet_images, web
from pipeline.data.storage.failures import read_error
from pipeline.data.storage.filesystems import StorageOptions, filesystem
from pipeline.data.storage.parquet_images import Place
from pipeline.data.storage.tars import members_of_tar as members_of_tar
from pipeline.data.storage.uris import OBJECT_STORES, redact, scheme_of
from pipeline.redaction import FILE_PART


class Part(NamedTuple):
    """Bytes inside a file.

    Attributes:
        file: URI of the file.
        column: of a Parquet file; None for a tar's member.
        group: number of the row group.
        row: number in the row group.
        item: number in the row's list; None if the column holds no lists.
        member: the member's name; None for a Parquet file's row.
        offset: of the member's first byte in the tar.
        size: of the member in bytes.
    """

    file: str
    column: str | None = None
    group: int = 0
    row: int = 0
    item: int | None = None
    member: str | None = None
    offset: int = 0
    size: int = 0


def parquet_part(file: str, column: str, group: int, row: int, item: int | None = None) -> str:
    """Return the URI of a picture in a Parquet file.

    Args:
        file: URI of the file.
        column: binary, or a struct with the fields ``bytes`` and ``path``; or a list of either.
        group: number of the row group, from 0.
        row: number in the row group, from 0.
        item: number in the row's list, from 0; None if the column holds no lists.
    """
    more = "" if item is None else f"&item={item}"
    return f"{file}#image={quote(column, safe='')}&group={group}&row={row}{more}"


def tar_part(file: str, member: str, offset: int, size: int) -> str:
    """Return the URI of a member of an uncompressed tar.

    Args:
        file: URI of the tar.
        member: the member's name; it is for people, and not used to find the bytes.
        offset: of its first byte.
        size: in bytes.
    """
    # A relative URI is put into normal form, which must not change the name.
    plain = not {"", ".", ".."} & {*member.split("/")}
    name = quote(member, safe="/" if plain else "", errors="surrogateescape")
    return f"{file}#member={name}&offset={offset}&size={size}"


def parse(uri: str) -> Part | None:
    """Return what a part's URI says; None if ``uri`` stands for a whole file."""
    found = FILE_PART.search(uri) if "#" in uri else None
    if not found or not found.start():
        return None
    file = uri[: found.start()]
    if found["column"]:
        column, item = unquote(found["column"]), found["item"]
        return Part(
            file, column, int(found["group"]), int(found["row"]), int(item) if item else None
        )
    member = unquote(found["member"], errors="surrogateescape")
    return Part(file, member=member, offset=int(found["offset"]), size=int(found["size"]))


def read(part: Part, options: StorageOptions, most: int | None = None) -> bytes | str:
    """Return a part's bytes; or a file's URI, if a Parquet row names a file and holds no bytes.

    Args:
        part: from ``parse``.
        options: storage options by scheme.
        most: largest size in bytes; None for no limit. Of a tar no more is read; a Parquet file's
            row group has a limit of its own (``parquet_images.MOST_GROUP``).

    Raises:
        RowError: ``not_found``, ``access_denied``, ``read_failed`` or ``file_too_large``;
            ``bad_row``: the picture is null; ``scheme_not_allowed``: the row names a file that a
            table at this place may not lead to.
    """
    if part.column is None:
        return _read_member(part, options, most)
    place = (part.file, part.column, part.group, part.row, part.item)
    try:
        found = parquet_images.read(*place, options)
    except RowError as error:
        where = f"column {part.column!r}, row group {part.group}, row {part.row}"
        raise RowError(error.error_class, f"{error} ({where})") from error
    if isinstance(found, str):
        _check_file(part, found)
    elif most is not None and len(found) > most:
        raise _too_large(parquet_part(*place), len(found), most)
    return found


def _check_file(part: Part, uri: str) -> None:
    """Refuse a file that a row names, unless rows of a manifest there could name it anyway."""
    if "::" in uri or scheme_of(uri) not in {scheme_of(part.file), *OBJECT_STORES}:
        raise RowError(
            "scheme_not_allowed",
            f"{redact(part.file)}: row {part.row} of row group {part.group} has no bytes, and its "
            f"path {redact(uri)} leads to another storage; list such pictures by content_uri",
        )


def _read_member(part: Part, options: StorageOptions, most: int | None) -> bytes:
    uri = tar_part(part.file, part.member or "", part.offset, part.size)
    if most is not None and part.size > most:
        raise _too_large(uri, part.size, most)
    if not part.size:
        return b""
    try:
        fs, path = filesystem(part.file, options)
        local.refuse_special(part.file, fs, path)
        if scheme_of(part.file) in web.SCHEMES:
            data = web.retried(lambda: web.read_range(fs, path, part.offset, part.size))
        else:
            data = fs.cat_file(path, start=part.offset, end=part.offset + part.size)
    except RowError:
        raise
    except Exception as error:  # each file system raises its own types
        raise read_error(uri, error) from error
    if len(data) != part.size:
        raise RowError(
            "read_failed",
            f"{redact(uri)}: the tar is cut off: it holds {len(data)} of the member's {part.size} "
            "bytes; copy it again",
        )
    return data


def _too_large(uri: str, size: int, most: int) -> RowError:
    return RowError("file_too_large", f"{redact(uri)}: {size} bytes, more than max_bytes = {most}")


def schema_of_parquet(uri: str, options: StorageOptions) -> pa.Schema:
    """Return a Parquet file's schema, with its metadata (``b"huggingface"`` for features).

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    with parquet_images.opened(uri, options) as file:
        return file.schema_arrow


def place_uris(
    places: Iterator[Place | list[Place | None] | None], file: str, column: str, group: int
) -> Iterator[str | list[str | None] | None]:
    """Yield the URIs of a row group's pictures.

    Args:
        places: from ``parquet_images.places``.
        file: URI of the Parquet file, or its path relative to a manifest's folder.
        column: the pictures' column.
        group: number of the row group.
    """

    def uri_of(place: Place | None) -> str | None:
        if place is None:
            return None
        if place.path is not None:
            return parquet_images.beside(file, place.path)
        return parquet_part(file, column, group, place.row, place.item)

    for place in places:
        yield [*map(uri_of, place)] if isinstance(place, list) else uri_of(place)
