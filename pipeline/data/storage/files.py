"""Read, write, list and delete objects by URI: local paths, S3, the web, other fsspec schemes."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.data.errors import RowError
from pipeline.data.storage import file_parts, filesystems, local, web
from pipeline.data.storage.failures import delete_error, read_error, write_error
from pipeline.data.storage.filesystems import StorageOptions as StorageOptions
from pipeline.data.storage.filesystems import filesystem
from pipeline.data.storage.uris import absolute, join, redact, scheme_of

CHUNK = 2**23
"""Bytes of each chunk of ``read_chunks``."""

DELETED_TOGETHER = 10_000
"""Files that ``delete_files`` passes to fsspec at once; S3 takes 1000 of them in a request."""

PATTERN = re.compile(r"[*?[]")
"""Characters that make fsspec's ``rm`` treat a name as a glob, and delete all that match it."""

CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
}
"""Content type by file extension. With it a browser shows an object instead of saving it."""

CONTENT_TYPE_OPTIONS = {
    "s3": "ContentType",
    "s3a": "ContentType",
    "gs": "content_type",
    "gcs": "content_type",
}
"""Name of fsspec's content type option by scheme; other schemes have none, or set it themselves."""


def read_bytes(uri: str, options: StorageOptions, most: int | None = None) -> bytes:
    """Return an object's whole content, or that of a part of a file (``file_parts``).

    Args:
        uri: the object, or the part.
        options: fsspec options by scheme.
        most: largest size in bytes; no more than one byte beyond it is read. None for no limit.

    Raises:
        RowError: ``not_found``, ``access_denied``, ``read_failed`` or ``file_too_large``; for a
            refused redirect ``scheme_not_allowed``; for a part also ``bad_row``.
    """
    part = file_parts.parse(uri)
    if part is not None:
        found = file_parts.read(part, options, most)
        if isinstance(found, bytes):
            return found
        uri = found  # the row has no bytes, but names a file
    try:
        fs, path = filesystem(uri, options)
        local.refuse_special(uri, fs, path)
        if scheme_of(uri) in web.SCHEMES:
            data = web.retried(lambda: web.read(fs, path, most))
        else:
            data = _read(fs, path, most)
    except RowError:
        raise
    except Exception as error:  # each file system raises its own types
        raise read_error(uri, error) from error
    if data is None or (most is not None and len(data) > most):
        raise RowError("file_too_large", f"{redact(uri)}: more than max_bytes = {most} bytes")
    return data


def reader(options: StorageOptions) -> Callable[[str], bytes]:
    """Return ``read_bytes`` with these options for code that expects an ``OSError`` of a reader."""

    def read(uri: str) -> bytes:
        try:
            return read_bytes(uri, options)
        except RowError as error:
            raise OSError(str(error)) from error

    return read


def _read(fs: Any, path: str, most: int | None) -> bytes:
    """Return the whole object, or its first ``most`` + 1 bytes."""
    if most is None:
        whole: bytes = fs.cat_file(path)
        return whole
    if isinstance(fs, LocalFileSystem):
        return local.read_file(path, most + 1)
    parts: list[bytes] = []
    left = most + 1
    with fs.open(path, "rb", cache_type="none") as file:
        # A server that does not state a file's length may return fewer bytes than asked for.
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def read_chunks(uri: str, options: StorageOptions) -> Iterator[bytes]:
    """Yield an object's content in chunks of at most ``CHUNK`` bytes.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        local.refuse_special(uri, fs, path)
        with fs.open(path, "rb", cache_type="none") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except RowError:
        raise
    except Exception as error:
        raise read_error(uri, error) from error


def check_web(uri: str, options: StorageOptions) -> None:
    """Check that a web server gives a file, as Arrow reports every refusal as a missing file.

    Raises:
        RowError: ``not_found``, ``access_denied``, ``read_failed`` or ``scheme_not_allowed``.
    """
    try:
        fs, path = filesystem(uri, options)
        web.retried(lambda: fs.info(path))
    except Exception as error:
        raise read_error(uri, error) from error


def version(uri: str, options: StorageOptions) -> str | None:
    """Return a text that changes when the object is replaced, or None if it cannot be known.

    The version of a part of a file is the file's. It is None for web addresses.
    """
    part = file_parts.parse(uri)
    return filesystems.version(part.file if part else uri, options)


def write_bytes(uri: str, data: bytes, options: StorageOptions) -> None:
    """Write an object atomically: a reader sees the old content or the new, never a part.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    try:
        if scheme_of(uri) == "file":
            local.write_file(Path(absolute(uri)), data)
        else:
            fs, path = filesystem(uri, options)
            # Object stores show an object only once it is complete.
            fs.pipe_file(path, data, **_content_type(uri))
    except Exception as error:
        raise write_error(uri, error) from error


def _content_type(uri: str) -> dict[str, str]:
    option = CONTENT_TYPE_OPTIONS.get(scheme_of(uri))
    kind = CONTENT_TYPES.get(uri.rpartition(".")[2])
    return {option: kind} if option and kind else {}


def exists(uri: str, options: StorageOptions) -> bool:
    """Return whether there is a file or a directory.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: it cannot be known.
    """
    try:
        fs, path = filesystem(uri, options)
        return bool(fs.exists(path))
    except Exception as error:
        raise read_error(uri, error) from error


def is_folder(uri: str, options: StorageOptions) -> bool:
    """Return whether there is a directory; on an object store, any object below that name.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        return bool(fs.isdir(path))
    except Exception as error:
        raise read_error(uri, error) from error


def list_files(uri: str, options: StorageOptions, suffix: str = "") -> list[str]:
    """Return the sorted URIs of all files below a directory, except hidden ones.

    Args:
        uri: the directory; if it does not exist, the list is empty.
        options: fsspec options by scheme.
        suffix: only files whose names end in it.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    folder = absolute(uri)
    found = [name for name in sizes(uri, options) if name.endswith(suffix)]
    # The folder keeps the scheme that the user gave (s3a), since options are looked up by it.
    return [join(folder, name) for name in found if not name.rpartition("/")[2].startswith(".")]


def sizes(uri: str, options: StorageOptions) -> dict[str, int]:
    """Return the bytes of every file below a directory, hidden ones too, by relative name.

    It is empty if there is no such directory. Folder markers of object stores (objects of 0 bytes
    whose names end in a slash) are no files.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        found = fs.find(path, detail=True)
    except Exception as error:
        raise read_error(uri, error) from error
    folder = f"{path.rstrip('/')}/"
    return {
        name.removeprefix(folder): info["size"]
        for name, info in sorted(found.items())
        if name.startswith(folder) and not name.endswith("/")
    }


def names_in(uri: str, options: StorageOptions) -> list[str]:
    """Return the sorted names of the files and directories directly in a directory.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        found = [name.rstrip("/") for name in fs.ls(path, detail=False)]
    except Exception as error:
        raise read_error(uri, error) from error
    # A directory's own folder marker is listed in it.
    return sorted(name.rpartition("/")[2] for name in found if name != path.rstrip("/"))


def delete(uri: str, options: StorageOptions) -> None:
    """Delete a file, or a directory with its content; do nothing if it does not exist.

    Raises:
        RowError: ``access_denied`` or ``write_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        if not fs.exists(path):
            return
        if isinstance(fs, LocalFileSystem) or not PATTERN.search(path):
            fs.rm(path, recursive=True)
        else:
            _delete_names(fs, fs.find(path))
    except Exception as error:
        raise delete_error(uri, error) from error


def _delete_names(fs: Any, names: Sequence[str]) -> None:
    """Delete objects by their exact names, even if ``rm`` would treat a name as a glob."""
    plain = [name for name in names if not PATTERN.search(name)]
    if plain:
        fs.rm(plain)
    for name in names:
        if PATTERN.search(name):
            fs.rm_file(name)


def delete_files(
    uris: Sequence[str], options: StorageOptions, before: Callable[[], None] = lambda: None
) -> None:
    """Delete files of one storage, many in a request where the storage supports it.

    Args:
        uris: the files.
        options: storage options by scheme.
        before: called before each ``DELETED_TOGETHER`` files, or a hundredth of them on a disk;
            what it raises ends the deleting.

    Raises:
        RowError: ``access_denied`` or ``write_failed``.
    """
    is_local = bool(uris) and scheme_of(uris[0]) == "file"
    size = DELETED_TOGETHER // 100 if is_local else DELETED_TOGETHER
    for start in range(0, len(uris), size):
        some = uris[start : start + size]
        before()
        try:
            if is_local:
                for uri in some:
                    Path(absolute(uri)).unlink(missing_ok=True)
            else:
                fs, _ = filesystem(some[0], options)
                _delete_names(fs, [fs._strip_protocol(uri) for uri in some])
        except Exception as error:
            raise delete_error(some[0], error) from error
