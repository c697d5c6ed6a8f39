"""URIs as text: their scheme, what is below what, and what of them may be shown."""

import os
import posixpath
import re
from urllib.parse import unquote

from pipeline.data.errors import RowError
from pipeline.data.redaction import redact as redact

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")
"""Schemes that rows may always use: they reach nothing without the job's own credentials."""


def scheme_of(uri: str) -> str:
    """``file`` for a path without a scheme, else what stands before ``://``, in lower case."""
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else "file"


_FILE = re.compile(r"file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
"""What stands before the path in ``file:///a``, ``file:/a`` and ``file://localhost/a``."""


def respelt(uri: str) -> str:
    """The same URI in the one form that all else takes: ``S3://b/a`` as ``s3://b/a``, ``FILE:/a``
    as ``file:///a``."""
    found = _FILE.match(uri)
    if found:
        return f"file://{uri[found.end() :]}"
    scheme, separator, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest}" if separator else uri


def local_path(uri: str) -> str:
    """The path in a local URI, without its ``%20``; a path as it is.

    Programs that know no better write a path behind ``file://`` as it is: where a file of the very
    name exists, that is meant.
    """
    found = _FILE.match(uri)
    if not found:
        return uri
    path = uri[found.end() :]
    return path if "%" not in path or os.path.exists(path) else unquote(path)


def resolve(uri: str, base: str) -> str:
    """``uri`` itself, respelt, when absolute, else relative to the directory ``base``."""
    uri = respelt(uri)
    if "://" in uri or os.path.isabs(uri):
        return uri
    scheme, separator, path = base.rpartition("://")
    # Object stores know no "..": a/../b would be a key of its own.
    return f"{scheme}{separator}{posixpath.normpath(join(path, uri))}"


def join(base: str, *parts: str) -> str:
    """Path or URI below a directory."""
    return "/".join([base.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """A local path made absolute, since workers have other working directories; else respelt."""
    if scheme_of(uri) != "file":
        return respelt(uri).rstrip("/")
    return os.path.abspath(local_path(uri))


def check_scheme(uri: str, allowed: frozenset[str]) -> None:
    """Refuse a row's URI whose scheme the job does not allow.

    Raises:
        RowError: ``scheme_not_allowed``; also for chained URIs, which hide a second scheme.
    """
    if "::" in uri:
        raise RowError(
            "scheme_not_allowed",
            f"{redact(uri)}: chained URIs (::) are never taken; unpack or copy the file, and give "
            "its own address",
        )
    scheme = scheme_of(uri)
    if scheme not in allowed:
        raise RowError(
            "scheme_not_allowed",
            f"{redact(uri)}: scheme {scheme!r} is not allowed here; allowed: "
            f"{', '.join(sorted(allowed))}. Add to it with --allow-schemes",
        )
