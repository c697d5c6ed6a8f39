"""URIs to bytes and back, through fsspec: file://, s3:// and whatever else fsspec knows.

Retries of single requests are the file systems' own (botocore's standard mode for S3: exponential
backoff with jitter); nothing here retries on top of them.
"""

import io
import os
import posixpath
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.data.errors import RowError

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec options by scheme: ``{"s3": {"endpoint_url": "http://127.0.0.1:9000"}}``."""

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")
"""Schemes that rows may always use: they reach nothing without the job's own credentials."""

S3_DEFAULTS: Mapping[str, Any] = {
    "config_kwargs": {
        "retries": {"mode": "standard", "max_attempts": 6},
        "connect_timeout": 10,
        "read_timeout": 60,
    },
}


def scheme_of(uri: str) -> str:
    """``file`` for a path without a scheme, else what stands before ``://``, in lower case."""
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else "file"


def redact(uri: str) -> str:
    """``uri`` without user, password and query: a signed URL is a credential."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host, slash, path = rest.partition("/")
    if scheme.lower() in ("http", "https"):  # elsewhere ? and # are letters of a key
        path = re.split(r"[?#]", path, maxsplit=1)[0]
        host = re.split(r"[?#]", host, maxsplit=1)[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def resolve(uri: str, base: str) -> str:
    """``uri`` itself when absolute, else relative to the directory ``base``."""
    if "://" in uri or os.path.isabs(uri):
        return uri
    scheme, separator, path = base.rpartition("://")
    # Object stores know no "..": a/../b would be a key of its own.
    return f"{scheme}{separator}{posixpath.normpath(join(path, uri))}"


def join(base: str, *parts: str) -> str:
    """Path or URI below a directory."""
    return "/".join([base.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """A local path made absolute, since workers have other working directories; else as it is."""
    if scheme_of(uri) != "file":
        return uri.rstrip("/")
    return os.path.abspath(uri.removeprefix("file://"))


def check_scheme(uri: str, allowed: frozenset[str]) -> None:
    """Refuse a row's URI whose scheme the job does not allow.

    Raises:
        RowError: ``scheme_not_allowed``; also for chained URIs, which hide a second scheme.
    """
    scheme = scheme_of(uri)
    if "::" in uri or scheme not in allowed:
        shown = "a chained URI (::)" if "::" in uri else f"scheme {scheme!r}"
        raise RowError(
            "scheme_not_allowed",
            f"{redact(uri)}: {shown} is not allowed here; allowed: {', '.join(sorted(allowed))}. "
            "Add to it with --allow-schemes",
        )


def filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """The fsspec file system of ``uri`` and the path in it.

    Raises:
        ImportError: the scheme's package is not installed.
        ValueError: no such scheme.
    """
    scheme = scheme_of(uri)
    given = dict(options.get(scheme, {}))
    if scheme in ("s3", "s3a"):
        given = {**S3_DEFAULTS, **given}
    if scheme != "file":
        # Ray's tasks change directories that this process has listed before.
        given = {"use_listings_cache": False, **given}
    return fsspec.core.url_to_fs(uri, **given)  # type: ignore[no-any-return]


def arrow_filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """The same for pyarrow and Ray Data: Arrow's own file system for local paths, fsspec's else."""
    if scheme_of(uri) == "file":
        return pyarrow.fs.LocalFileSystem(), absolute(uri)
    fs, path = filesystem(uri, options)
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def read_bytes(uri: str, options: StorageOptions) -> bytes:
    """The whole object.

    Raises:
        RowError: ``not_found``, ``access_denied`` or ``read_failed``.
    """
    try:
        fs, path = filesystem(uri, options)
        data: bytes = fs.cat_file(path)
    except FileNotFoundError as error:
        raise RowError("not_found", f"{redact(uri)}: does not exist") from error
    except PermissionError as error:
        raise RowError("access_denied", f"{redact(uri)}: access denied") from error
    except Exception as error:  # each file system raises its own kinds
        raise RowError("read_failed", f"{redact(uri)}: cannot be read: {reason(error)}") from error
    return data


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
            fs.pipe_file(path, data)  # object stores show an object only once it is complete
    except PermissionError as error:
        raise RowError("access_denied", f"{redact(uri)}: access denied") from error
    except Exception as error:
        message = f"{redact(uri)}: cannot be written: {reason(error)}"
        raise RowError("write_failed", message) from error


def read_table(uri: str, options: StorageOptions) -> pa.Table:
    """A whole Parquet file.

    Raises:
        RowError: as ``read_bytes``.
    """
    return pq.read_table(io.BytesIO(read_bytes(uri, options)))


def write_table(uri: str, table: pa.Table, options: StorageOptions) -> None:
    """A whole Parquet file at once.

    Raises:
        RowError: as ``write_bytes``.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_bytes(uri, buffer.getvalue(), options)


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot: image loaders and this package's own listing pass it over.
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def exists(uri: str, options: StorageOptions) -> bool:
    """Whether there is a file or a directory."""
    fs, path = filesystem(uri, options)
    return bool(fs.exists(path))


def list_files(uri: str, options: StorageOptions, suffix: str = "") -> list[str]:
    """The URIs of all files below a directory, sorted; hidden ones left out; empty if missing."""
    fs, path = filesystem(uri, options)
    found = [name for name in fs.find(path) if name.endswith(suffix)]
    visible = [name for name in sorted(found) if not name.rpartition("/")[2].startswith(".")]
    return [fs.unstrip_protocol(name) if scheme_of(uri) != "file" else name for name in visible]


def delete(uri: str, options: StorageOptions) -> None:
    """Delete a file or a directory with all that is in it; nothing if there is none."""
    fs, path = filesystem(uri, options)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def reason(error: BaseException) -> str:
    """The kind and first line of an error, without what may stand in a URI's query."""
    lines = str(error).strip().splitlines()
    text = lines[0].partition("?")[0][:200] if lines else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
