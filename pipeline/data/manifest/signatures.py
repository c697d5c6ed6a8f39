"""What of a web address is a credential and not part of what it names.

A signed address has another query each time that it is signed; what it leads to stays the same.
"""

import re

from pipeline.data.storage import web

SIGNATURES: tuple[tuple[str, str, str], ...] = (
    (  # Amazon S3, version 4
        "x-amz-signature",
        "x-amz-credential",
        "x-amz-algorithm x-amz-date x-amz-expires x-amz-signedheaders x-amz-security-token "
        "x-amz-s3session-token",
    ),
    ("signature", "awsaccesskeyid", "expires x-amz-security-token"),  # version 2
    ("signature", "key-pair-id", "expires policy hash-algorithm"),  # CloudFront
    (  # Google Cloud Storage, version 4
        "x-goog-signature",
        "x-goog-credential",
        "x-goog-algorithm x-goog-date x-goog-expires x-goog-signedheaders",
    ),
    ("signature", "googleaccessid", "expires"),  # version 2
    (  # Azure: a shared access signature
        "sig",
        "sv",
        "ss srt sr sp st se spr sip si sdd ses skoid sktid skt ske sks skv saoid suoid scid",
    ),
)
"""Parameters by their names in lower case: two that tell a signature, and what belongs to it. By
themselves ``expires`` or ``st`` may mean anything, and are left alone."""

_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
"""Host, path, query and fragment of what follows ``://``."""


def unsigned(uri: str) -> str:
    """``uri`` without user, password and known signatures; of other schemes than http all of it.

    Every other parameter stays, to the letter: ``?id=5`` may be another picture than ``?id=6``.
    """
    scheme, separator, rest = uri.partition("://")
    parts = _PARTS.fullmatch(rest)
    if not separator or not parts or scheme.lower() not in web.SCHEMES:
        return uri
    host, path, query, fragment = parts.groups("")
    if query != "?":
        kept = _unsigned_query(query[1:])
        query = f"?{kept}" if kept else ""
    return f"{scheme}://{host.rpartition('@')[2]}{path}{query}{fragment}"


def _unsigned_query(query: str) -> str:
    parts = query.split("&")
    names = [part.partition("=")[0].lower() for part in parts]
    dropped: set[str] = set()
    for first, second, more in SIGNATURES:
        if first in names and second in names:
            dropped |= {first, second, *more.split()}
    return "&".join(part for part, name in zip(parts, names, strict=True) if name not in dropped)
