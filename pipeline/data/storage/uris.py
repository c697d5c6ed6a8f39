"""URIs as text: schemes, local paths, joining, and what may be shown of them."""

import os
import posixpath
import re
from urllib.parse import unquote

from pipeline.data.errors import RowError
from pipeline.redaction import SCHEME
from pipeline.redaction import redact as redact

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs")
"""Schemes that rows may always use: without the job's own credentials they reach nothing."""


def scheme_of(uri: str) -> str:
    """Return the text before ``://`` in lower case, or ``file`` for a path without a scheme."""
    head, separator, _ = uri.partition("://")
    return head.lower() if separator else "file"


_FILE = re.compile(r"file:(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
"""The text before the path in ``file:///a``, ``file:/a`` and ``file://localhost/a``."""


def respelt(uri: str) -> str:
    """Return a URI in normal spelling: ``S3://b/a`` as ``s3://b/a``, ``FILE:/a`` as ``file:///a``."""
    found = _FILE.match(uri)
    if found:
        return f"file://{uri[found.end() :]}"
    scheme, separator, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest}" if separator else uri


def local_path(uri: str) -> str:
    """Return the path of a local URI, with ``%20`` and the like decoded; a plain path unchanged.

    Some programs write a path after ``file://`` without encoding it. If a file with exactly that
    name exists, the path is not decoded.
    """
    found = _FILE.match(uri)
    if not found:
        return uri
    path = uri[found.end() :]
    return path if "%" not in path or os.path.exists(path) else unquote(path)


def resolve(uri: str, base: str) -> str:
    """Return ``uri`` in normal spelling; a relative one is taken from the directory ``base``."""
    uri = respelt(uri)
    if "://" in uri or os.path.isabs(uri):
        return uri
    scheme, separator, path = base.rpartition("://")
    # Object stores do not resolve "..": a/../b would be a key of its own.
    return f"{scheme}{separator}{posixpath.normpath(join(path, uri))}"


def join(base: str, *parts: str) -> str:
    """Return the path or URI of something below a directory."""
    return "/".join([base.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """Return an absolute local path (workers have other working directories), or ``respelt``."""
    if scheme_of(uri) != "file":
        return respelt(uri).rstrip("/")
    return os.path.abspath(local_path(uri))


def check_scheme(uri: str, allowed: frozenset[str]) -> None:
    """Refuse a row's URI whose scheme the job does not allow, or that hides a second scheme.

    Raises:
        RowError: ``scheme_not_allowed``.
    """
    if "::" in uri:
        raise RowError(
            "scheme_not_allowed",
            f"{redact(uri)}: chained URIs (::) are not supported; unpack or copy the file, and "
            "give its own address",
        )
    scheme = scheme_of(uri)
    if scheme not in allowed:
        # All before :// may be anything, such as a password.
        named = f"scheme {scheme!r}" if SCHEME.fullmatch(scheme) else "such a scheme"
        raise RowError(
            "scheme_not_allowed",
            f"{redact(uri)}: {named} is not allowed here; allowed: "
            f"{', '.join(sorted(allowed))}. Add it with --allow-schemes",
        )
