"""Telling credentials in a web address from the part that names a file.

Each time an address is signed its query changes, but it still leads to the same file.
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
"""Query parameters of signatures, in lower case.

Each entry has two parameters that together tell a signature, and those that may accompany them.
Without the two, ``expires`` or ``st`` may mean anything and are kept.
"""

_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
"""Host, path, query and fragment: the parts of an address after ``://``."""


def unsigned(uri: str) -> str:
    """Return an http(s) address without user, password and known signatures.

    All other parameters stay as they are: ``?id=5`` and ``?id=6`` may be different pictures. URIs
    of other schemes are returned unchanged.
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
