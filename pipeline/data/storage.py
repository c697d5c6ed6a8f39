"""URIs to bytes and back, through fsspec: file://, s3:// and whatever else fsspec knows.

Retries of single requests are the file systems' own (botocore's standard mode for S3: exponential
backoff with jitter; s3fs has some more); nothing here retries on top of them. Web addresses, whose
file system has none, are read in several tries (``web``).
"""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.data import web
from pipeline.data.errors import RowError
from pipeline.data.redaction import redact_text
from pipeline.data.uris import absolute, join, local_path, redact, respelt, scheme_of

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec options by scheme: ``{"s3": {"endpoint_url": "http://127.0.0.1:9000"}}``."""

LEFTOVER = ".writing"
"""The ending of a local file that is not complete; a killed process leaves it behind."""

KERNEL = ("/proc", "/sys")
"""Folders whose files are none, though they look so: ``/proc/kmsg`` waits until there is news."""

CHUNK = 2**23
"""Bytes that ``read_chunks`` asks for at a time."""

DELETED_TOGETHER = 10_000
"""Files that ``delete_files`` gives to the file system at once; S3's takes 1000 to a request."""

PATTERN = re.compile(r"[*?[]")
"""Letters that make fsspec's ``rm`` take a name for a pattern, and delete all that fits it."""

CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "jpg": "image/jpeg",
    "webp": "image/webp",
}
"""What a browser must be told, so that it shows a file and does not save it."""

CONTENT_TYPE_OPTIONS = {
    "s3": "ContentType",
    "s3a": "ContentType",
    "gs": "content_type",
    "gcs": "content_type",
}
"""How each scheme's fsspec wants to be told; others say what they like."""

S3_CONFIG: Mapping[str, Any] = {
    "retries": {"mode": "standard", "max_attempts": 6},
    "connect_timeout": 10,
    "read_timeout": 60,
}
"""Of botocore. What options say of one of them leaves the others as they are."""

S3_TRIES = 3
"""Of s3fs, each of which is some of botocore's: for bodies that are cut off. A storage that takes
connections and never answers ends a call after 20 minutes or so, and with it a driver's work, which
no watchdog watches."""


def filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """The fsspec file system of ``uri`` and the path in it.

    Raises:
        ImportError: the scheme's package is not installed.
        ValueError: no such scheme.
    """
    scheme = scheme_of(uri)
    given = dict(options.get(scheme, {}))
    if scheme in ("s3", "s3a"):
        given["config_kwargs"] = {**S3_CONFIG, **(given.get("config_kwargs") or {})}
    if scheme in web.SCHEMES:
        given = {"get_client": web.get_client, **given}
    if scheme == "file":
        uri = local_path(uri)
    else:
        # Ray's tasks change directories that this process has listed before.
        given = {"use_listings_cache": False, **given}
    fs, path = fsspec.core.url_to_fs(respelt(uri), **given)
    if scheme in ("s3", "s3a"):
        fs.retries = S3_TRIES
    return fs, path


def arrow_filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """The same for pyarrow and Ray Data: Arrow's own file system for local paths, fsspec's else."""
    if scheme_of(uri) == "file":
        return pyarrow.fs.LocalFileSystem(), absolute(uri)
    fs, path = filesystem(uri, options)
    return pyarrow.fs.PyFileSystem(_Handler(fs)), path


class _Handler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """Arrow's view of an fsspec file system, without what consoles make for folders: see ``sizes``.

    Arrow would take them for files of a data set.
    """

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        found = super().get_file_info_selector(selector)
        return [info for info in found if not info.path.endswith("/")]


def read_bytes(uri: str, options: StorageOptions, most: int | None = None) -> bytes:
    """The whole object.

    Args:
        most: bytes; of a larger object no more than that is read.

    Raises:
        RowError: ``not_found``, ``access_denied``, ``read_failed`` or ``file_too_large``.
    """
    try:
        fs, path = filesystem(uri, options)
        _refuse_special(uri, fs, path)
        if scheme_of(uri) in web.SCHEMES:
            data = web.retried(lambda: web.read(fs, path, most))
        else:
            data = _read(fs, path, most)
    except RowError:
        raise
    except Exception as error:  # each file system raises its own kinds
        raise _read_error(uri, error) from error
    if data is None or (most is not None and len(data) > most):
        raise RowError("file_too_large", f"{redact(uri)}: more than max_bytes = {most} bytes")
    return data


def version(uri: str, options: StorageOptions) -> str | None:
    """What changes when the object is replaced; None where that cannot be known.

    Web servers are not asked: many know no versions, and signed addresses allow no such request.
    """
    if scheme_of(uri) in web.SCHEMES:
        return None
    try:
        fs, path = filesystem(uri, options)
        found: str = fs.ukey(path)
    except Exception:  # each file system raises its own kinds
        return None
    return found


def _refuse_special(uri: str, fs: Any, path: str) -> None:
    """Whoever opens a pipe waits for a writer, for ever if there is none. So do some files of the
    kernel, which look like others.

    Raises:
        RowError: a local path is no file.
    """
    if isinstance(fs, LocalFileSystem) and is_special(path):
        raise RowError(
            "read_failed",
            f"{redact(uri)}: is a folder, a pipe, a device or a file of the kernel; give a file",
        )


def is_special(path: str) -> bool:
    """Whether a local path is a folder, a pipe, a device or in ``/proc`` or ``/sys``; by its name
    alone, without opening it.

    Raises:
        OSError: there is nothing of that name.
    """
    found = os.stat(path)
    kernels = {os.stat(place).st_dev for place in KERNEL if os.path.ismount(place)}
    inside = os.path.realpath(path).startswith(tuple(f"{place}/" for place in KERNEL))
    return not stat.S_ISREG(found.st_mode) or inside or found.st_dev in kernels


def _read(fs: Any, path: str, most: int | None) -> bytes:
    """The whole object, or one byte more than ``most``."""
    if most is None:
        whole: bytes = fs.cat_file(path)
        return whole
    parts: list[bytes] = []
    left = most + 1
    with fs.open(path, "rb", cache_type="none") as file:
        # A server that does not say how long a file is gives it in pieces.
        while left and (part := file.read(left)):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _read_error(uri: str, error: Exception) -> RowError:
    if scheme_of(uri) in web.SCHEMES:
        error_class, text = web.explain(error)
        return RowError(error_class, f"{redact(uri)}: {text}")
    if isinstance(error, FileNotFoundError):
        return RowError("not_found", f"{redact(uri)}: does not exist")
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    return RowError("read_failed", f"{redact(uri)}: cannot be read: {reason_at(uri, error)}")


def _denied(uri: str, error: Exception) -> RowError:
    return RowError("access_denied", f"{redact(uri)}: access denied: {reason_at(uri, error)}")


def check_web(uri: str, options: StorageOptions) -> None:
    """Ask a web server whether it gives a file. To Arrow every refusal is a missing file.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        web.retried(lambda: fs.info(path))
    except Exception as error:
        raise _read_error(uri, error) from error


def read_chunks(uri: str, options: StorageOptions) -> Iterator[bytes]:
    """The whole object, some MB in memory at a time.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        _refuse_special(uri, fs, path)
        with fs.open(path, "rb", cache_type="none") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except RowError:
        raise
    except Exception as error:
        raise _read_error(uri, error) from error


def write_bytes(uri: str, data: bytes, options: StorageOptions) -> None:
    """Write the whole object at once: a reader sees the old one or the new one, never a part.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    try:
        if scheme_of(uri) == "file":
            _write_local(Path(absolute(uri)), data)
        else:
            fs, path = filesystem(uri, options)
            # Object stores show an object only once it is complete.
            fs.pipe_file(path, data, **_content_type(uri))
    except Exception as error:
        raise _write_error(uri, error) from error


def _content_type(uri: str) -> dict[str, str]:
    option = CONTENT_TYPE_OPTIONS.get(scheme_of(uri))
    kind = CONTENT_TYPES.get(uri.rpartition(".")[2])
    return {option: kind} if option and kind else {}


def _write_error(uri: str, error: Exception) -> RowError:
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    return RowError("write_failed", f"{redact(uri)}: cannot be written: {reason_at(uri, error)}")


def _delete_error(uri: str, error: Exception) -> RowError:
    if isinstance(error, PermissionError):
        return _denied(uri, error)
    return RowError("write_failed", f"{redact(uri)}: cannot be deleted: {reason_at(uri, error)}")


def create_bytes(uri: str, data: bytes, options: StorageOptions) -> bool:
    """Write an object that must not exist yet. Returns whether it did not.

    Of several that try at once, one succeeds on local storage and on S3 (a conditional PUT);
    elsewhere as far as the file system knows how. Some servers that speak S3 write over what is
    there all the same: look first, and do it twice to know.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    try:
        if scheme_of(uri) == "file":
            path = Path(absolute(uri))
            path.parent.mkdir(parents=True, exist_ok=True)  # raises FileExistsError at a file
            return _create_local(path, data)
        fs, path_in_fs = filesystem(uri, options)
        try:
            fs.pipe_file(path_in_fs, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if _s3_code(error) in CHANGED:
                return False
            if _s3_code(error) not in UNKNOWN:
                raise
            fs.pipe_file(path_in_fs, data)
    except Exception as error:
        raise _write_error(uri, error) from error
    return True


def tag_of(uri: str, options: StorageOptions) -> str | None:
    """What tells an object's content from any later one, for ``replace_bytes``; None where there is
    no object, or the storage cannot replace by such a tag: all but S3.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    if scheme_of(uri) not in ("s3", "s3a"):
        return None
    try:
        fs, path = filesystem(uri, options)
        tag: str | None = fs.info(path).get("ETag")
    except FileNotFoundError:
        return None
    except Exception as error:
        raise _read_error(uri, error) from error
    return tag


def replace_bytes(uri: str, data: bytes, tag: str | None, options: StorageOptions) -> bool:
    """Write an object if it is as it was when it had this tag; without a tag in any case.

    Returns whether it was. The answer to a write may be lost, and the next try find it changed: if
    not, see by whom.

    Raises:
        RowError: ``write_failed`` or ``access_denied``.
    """
    if tag is not None:
        try:
            fs, path = filesystem(uri, options)
            fs.pipe_file(path, data, IfMatch=tag)
            return True
        except Exception as error:
            if _s3_code(error) in CHANGED:
                return False
            if _s3_code(error) not in UNKNOWN:
                raise _write_error(uri, error) from error
    write_bytes(uri, data, options)
    return True


CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404")
"""S3's words for an object that is not as a conditional write asks."""

UNKNOWN = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest")
"""Error codes of S3 servers that know no conditional writes."""


def _s3_code(error: Exception) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot: image loaders and this package's own listing pass it over.
    temporary = path.with_name(f".{uuid.uuid4().hex}{LEFTOVER}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _create_local(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def exists(uri: str, options: StorageOptions) -> bool:
    """Whether there is a file or a directory.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: nobody knows.
    """
    try:
        fs, path = filesystem(uri, options)
        return bool(fs.exists(path))
    except Exception as error:
        raise _read_error(uri, error) from error


def is_folder(uri: str, options: StorageOptions) -> bool:
    """Whether there is a directory, or on an object store anything below that name.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        return bool(fs.isdir(path))
    except Exception as error:
        raise _read_error(uri, error) from error


def is_local_file(uri: str) -> bool:
    """Whether a local path is there and no folder. (Object stores have no folders to be.)"""
    path = absolute(uri)
    return scheme_of(uri) == "file" and os.path.exists(path) and not os.path.isdir(path)


def list_files(uri: str, options: StorageOptions, suffix: str = "") -> list[str]:
    """The URIs of all files below a directory, sorted; hidden ones left out; empty if missing.

    Raises:
        RowError: as ``sizes``.
    """
    folder = absolute(uri)
    found = [name for name in sizes(uri, options) if name.endswith(suffix)]
    # Built from the URI as it is: options are found by the scheme that the user gave.
    return [join(folder, name) for name in found if not name.rpartition("/")[2].startswith(".")]


def sizes(uri: str, options: StorageOptions) -> dict[str, int]:
    """Bytes of every file below a directory, hidden ones too, by name relative to the directory.

    Empty if there is no such directory. Consoles of object stores make a folder by an object of 0
    bytes whose name ends in a slash: these are no files.

    Raises:
        RowError: ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        found = fs.find(path, detail=True)
    except Exception as error:
        raise _read_error(uri, error) from error
    folder = f"{path.rstrip('/')}/"
    return {
        name.removeprefix(folder): info["size"]
        for name, info in sorted(found.items())
        if name.startswith(folder) and not name.endswith("/")
    }


def names_in(uri: str, options: StorageOptions) -> list[str]:
    """The names of the files and directories in a directory, sorted.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        found = [name.rstrip("/") for name in fs.ls(path, detail=False)]
    except Exception as error:
        raise _read_error(uri, error) from error
    # A console's mark of the directory itself is listed in it.
    return sorted(name.rpartition("/")[2] for name in found if name != path.rstrip("/"))


def is_leftover(name: str) -> bool:
    """Whether a file was left by a writer that was killed: hidden, so nobody takes it for whole."""
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(LEFTOVER)


def delete_leftovers(uri: str, *, below: bool = True) -> list[str]:
    """Delete what killed processes left half-written in a local directory, and ``below`` it.

    Object stores show nothing that is not complete.

    Returns:
        What cannot be deleted, and why, in words. Nobody reads it: it may stay.
    """
    if scheme_of(uri) != "file":
        return []
    folder, kept = Path(absolute(uri)), []
    for path in folder.rglob(f".*{LEFTOVER}") if below else folder.glob(f".*{LEFTOVER}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            kept.append(f"{path} ({reason(error)})")
    return kept


def delete(uri: str, options: StorageOptions) -> None:
    """Delete a file or a directory with all that is in it; nothing if there is none.

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
        raise _delete_error(uri, error) from error


def _delete_names(fs: Any, names: Sequence[str]) -> None:
    """Files of a storage that is not local by their very names, which ``rm`` takes for patterns."""
    plain = [name for name in names if not PATTERN.search(name)]
    if plain:
        fs.rm(plain)
    for name in names:
        if PATTERN.search(name):
            fs.rm_file(name)


def delete_files(uris: Sequence[str], options: StorageOptions) -> None:
    """Delete files of one storage, many in a request where it can do that.

    Raises:
        RowError: ``access_denied`` or ``write_failed``.
    """
    for start in range(0, len(uris), DELETED_TOGETHER):
        some = uris[start : start + DELETED_TOGETHER]
        try:
            if scheme_of(some[0]) == "file":
                for uri in some:
                    Path(absolute(uri)).unlink(missing_ok=True)
            else:
                fs, _ = filesystem(some[0], options)
                _delete_names(fs, [fs._strip_protocol(uri) for uri in some])
        except Exception as error:
            raise _delete_error(some[0], error) from error


def delete_empty_folders(uri: str) -> None:
    """Delete each local folder below one, and itself, that holds nothing; others have none."""
    if scheme_of(uri) == "file":
        for folder, _, _ in os.walk(absolute(uri), topdown=False):
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(folder)


def reason(error: BaseException) -> str:
    """The kind and first line of an error, without what may not be shown of the addresses in it."""
    lines = str(error).strip().splitlines()
    text = redact_text(lines[0][:2000])[:200] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason_at(uri: str, error: BaseException) -> str:
    """``reason``; of a URI with a password the kind alone, as libraries repeat parts of the URI."""
    safe = redact(uri) == uri or isinstance(error, ImportError)
    return reason(error) if safe else type(error).__name__
