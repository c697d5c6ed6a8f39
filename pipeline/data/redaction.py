"""What may be shown of a URI: ``redact`` decides, for records, reports, logs and messages alike.

A signed address is a credential, and so is one with a password. What is well formed loses these and
no more. What is not, as people have addresses out of tables and shells, loses whatever could be one
of these if it were mended: its query, its user, and all that is behind the first ``?``, ``#`` or
``@``.
"""

import re

KNOWN = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf", "hdfs", "ftp"),
    *("sftp", "ssh", "smb", "dbfs", "github", "git", "gdrive", "dropbox", "box", "local", "memory"),
)
"""Schemes of storages in whose names ``?`` and ``#`` are letters; ``file`` is one too."""

HIDDEN = "..."
"""Stands for what cannot be told from a password."""

_WEB = re.compile(r"https?(?=\s*[:;/\\])[\s:;/\\]+", re.IGNORECASE)
"""The beginning of a web address, also of ``https:/h/x``, ``"https://h/x``, ``a/https;//h/x``."""

_FILE = re.compile(r"file:(?=/)(?://)?", re.IGNORECASE)

_HOST = re.compile(r"(?:[\w.~%-]*|\[[\da-fA-F:.]+\])(?::\d{0,5})?", re.ASCII)
"""A host, and its port."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")

_CUT_PASSWORD = re.compile(r"(?!\[|arn:)[^:]*:(?!\d*$)")
"""``user:SEC`` of ``user:SEC/RET@host``: what follows a host's colon is a number. Not the address
``[::1]``, and not Amazon's names, ``arn:aws:...``."""

_PORT = re.compile(r"[^/\[\]]*:\d+$")
"""A host with a port, or the user and the first digits of a password."""

_INNER = re.compile(r":[/\\]")
"""In a path: an address behind it."""

_USER = re.compile(r"(?:(?<=/)|^)[^/]*?:(?!\d*[:/])")
"""In a local path: ``user:``. What follows the colon of a time is a number."""

_SCHEME_INSIDE = re.compile(r"(?:(?<=/)|^)[^\w/]*[A-Za-z][\w+.-]*:(?=/)")
"""In a local path: the beginning of an address."""

_SECRETS = re.compile(
    r"(?:[?&#]|%3f|%26|%23)[\w.-]{0,40}(?:sig|token|key|secret|pass|pwd|auth|"
    r"credential)[\w.-]{0,40}(?:=|%3d)|x-(?:amz|goog)-(?:signature|credential|security-token)",
    re.IGNORECASE,
)
"""The beginning of a query that holds a credential. On a disk and in an object store ``?`` and
``#`` are letters of a name, and what is behind them stays, but for this."""


def redact(uri: str) -> str:
    """What may be shown of ``uri``: no user, password or signature, however it is spelt.

    The same again of what it returns.
    """
    return _without_secrets(_redact(uri))


def redact_text(text: str) -> str:
    """A message with what may be shown of the addresses in it, for one that somebody else wrote."""
    return re.sub(r"[^\s'\"<>]+", lambda found: redact(found[0]), text)


def _without_secrets(uri: str) -> str:
    secret = _SECRETS.search(uri)
    return uri[: secret.start()] if secret else uri


def _redact(uri: str) -> str:
    web = _WEB.search(uri)
    if web:
        before, rest = uri[: web.start()], uri[web.end() :]
        if re.search(r"[?#@]", before):
            return HIDDEN
        inner = _WEB.search(rest)
        if inner and not re.search(r"[?#@]", rest[: inner.start()]):
            rest, more = rest[: inner.start()], rest[inner.end() :]
            more = inner[0] + (HIDDEN if _WEB.search(more) else _shown_web(more))
            return before + web[0] + _shown_web(rest) + more
        return before + web[0] + _shown_web(rest)
    file = _FILE.match(uri)
    if file:
        return file[0] + _shown_local(uri[file.end() :])
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _shown_local(uri)
    if re.search(r"[?#@]", scheme):
        return HIDDEN
    rest = _without_user(_without_secrets(rest))
    if not _SCHEME.fullmatch(scheme) or scheme.lower() not in KNOWN:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{rest}"


def _shown_web(rest: str) -> str:
    """What may be shown of the text behind ``https://``."""
    place = re.search(r"[?#]", rest)
    main, query = (rest[: place.start()], rest[place.start() :]) if place else (rest, "")
    authority, slash, path = main.partition("/")
    user, _, host = authority.rpartition("@")
    is_host = _HOST.fullmatch(host) is not None
    # Whose password this is may go on behind a ?, # or /, up to another @.
    is_cut = ":" in user or (not is_host and ":" in host)
    if "@" in query and (is_cut or not path or _PORT.match(authority)):
        return HIDDEN
    if _is_cut_at_number(authority, path):
        return HIDDEN
    if "@" in path and is_cut:
        host, slash, path = main.rpartition("@")[2].partition("/")
        is_host = _HOST.fullmatch(host) is not None
    if not is_host and ":" in host:
        return HIDDEN
    user_inside = _USER.search(path) if "@" in query else None
    if user_inside:
        path = path[: user_inside.start()] + HIDDEN
    return host + slash + _without_inner(path)


def _is_cut_at_number(authority: str, path: str) -> bool:
    """Whether ``user:12/x@host/`` may be a password that begins as a port does. What begins with
    an ``@``, and a file's name with one, is no host."""
    if not _PORT.match(authority):
        return False
    inside = re.search("[^/]@", path)
    folders, _, name = path.rpartition("/")
    before, _, after = name.rpartition("@")
    return (inside is not None and inside.end() <= len(folders)) or (
        before != "" and "." not in after
    )


def _without_user(rest: str) -> str:
    """What follows ``s3://``, without the user before the bucket."""
    host, slash, path = rest.partition("/")
    user, _, bucket = host.rpartition("@")
    is_cut = _CUT_PASSWORD.match(bucket) is not None
    if "@" in path and (":" in user or is_cut):
        return rest.rpartition("@")[2]
    if is_cut or _is_cut_at_number(bucket, path):
        return HIDDEN
    return bucket + slash + _without_inner(path)


def _without_inner(path: str) -> str:
    """A path without the address behind a folder: a relative one was taken for a path."""
    last = path.rfind("@", 0, path.rfind("/") + 1)  # a host's; a name may be a:b@2x.png
    inner = _USER.search(path, 0, last + 1) or _INNER.search(path, 0, path.rfind("@") + 1)
    return path[: inner.start()] + HIDDEN if inner else path


def _shown_local(path: str) -> str:
    """As ``_without_inner``; on a disk there are less names of that form, and queries are none."""
    user = _USER.search(path, 0, path.rfind("@") + 1)
    if user:
        return path[: user.start()] + HIDDEN
    scheme = _SCHEME_INSIDE.search(path)
    query = re.compile("[?#]").search(path, scheme.end()) if scheme else None
    return path[: query.start()] if query else path
