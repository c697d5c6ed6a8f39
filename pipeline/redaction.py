"""Remove credentials from URIs before records, reports, logs and messages show them.

A signed address is a credential, and so is one with a password. A well-formed URI loses these parts
and nothing else. A malformed one, as it may come out of a table or a shell, loses every part that
could be a credential if the URI were repaired: the query, the user, and all that follows the first
``?``, ``#`` or ``@``.
"""

import re
from urllib.parse import unquote

KNOWN = (
    *("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "hf", "hdfs", "ftp"),
    *("sftp", "ssh", "smb", "dbfs", "github", "git", "gdrive", "dropbox", "box", "local", "memory"),
)
"""Schemes whose object names may contain ``?`` and ``#``, as those of ``file`` may."""

HIDDEN = "..."
"""Replaces text that may hold a password."""

_WEB = re.compile(r"https?(?=\s*[:;/\\])[\s:;/\\]+", re.IGNORECASE)
"""The start of a web address, also in ``https:/h/x``, ``"https://h/x``, ``a/https;//h/x``."""

_FILE = re.compile(r"file:(?=/)(?://)?", re.IGNORECASE)

_HOST = re.compile(r"(?:[\w.~%-]*|\[[\da-fA-F:.]+\])(?::\d{0,5})?", re.ASCII)
"""A host, with or without a port."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
"""A scheme's name."""

_CUT_PASSWORD = re.compile(r"(?!\[|arn:)[^:]*:(?!\d*$)")
"""``user:SEC`` of ``user:SEC/RET@host``. After a host's colon there would be a number. The address
``[::1]`` and Amazon's names, ``arn:aws:...``, do not match."""

_PORT = re.compile(r"[^/\[\]]*:\d+$")
"""A host with a port, or a user with the first digits of a password."""

_USER_AT_HOST = re.compile(r"[/\\]{2}[^/\\?#@:]*:[^/\\?#]*@")
"""``//user:SECRET@``. Of an address in which this is percent-encoded only the start is shown."""

_SPACED_PASSWORD = re.compile(r"(?<=://)[^\s/@:]*:(?!\d{1,5}\s)[^\s/@]*[^\S\n][^\n/@]*@")
"""In a message: ``user:SEC RET@`` of an address. A number is a port."""

_INNER = re.compile(r":[/\\]")
"""In a path: the ``://`` of an address inside it."""

_USER = re.compile(r"(?:(?<=/)|^)[^/]*?:(?!\d*[:/])")
"""In a local path: ``user:``. A time does not match: a number follows its colon."""

_SCHEME_INSIDE = re.compile(r"(?:(?<=/)|^)[^\w/]*[A-Za-z][\w+.-]*:(?=/)")
"""In a local path: the start of an address."""

_SECRETS = re.compile(
    r"(?:[?&#]|%3f|%26|%23)[\w.-]{0,40}(?:sig|token|key|secret|pass|pwd|auth|"
    r"credential)[\w.-]{0,40}(?:=|%3d)|x-(?:amz|goog)-(?:signature|credential|security-token)",
    re.IGNORECASE,
)
"""The start of a query that holds a credential. On a disk and in an object store ``?`` and ``#``
may belong to a name, so all other text after them stays."""

FILE_PART = re.compile(
    r"#(?:image=(?P<column>[\w.~%-]+)&group=(?P<group>\d{1,9})&row=(?P<row>\d{1,9})"
    r"(?:&item=(?P<item>\d{1,9}))?"
    r"|member=(?P<member>[\w.~%/-]+)&offset=(?P<offset>\d{1,18})&size=(?P<size>\d{1,18}))\Z",
    re.ASCII,
)
"""The end of a URI that names bytes inside a file (``pipeline.data.storage.file_parts``). It is
shown, also after a web address, whose other fragments are not."""


def redact(uri: str) -> str:
    """Return ``uri`` without user, password and signature, in whatever way it is written.

    Redacting the result again changes nothing.
    """
    for _ in range(8):  # where a secret was cut out, what is left may read as another address
        shown = _redact_part(uri)
        if shown == uri:
            start, encoded, _ = shown.partition("%")
            is_hidden = encoded and _USER_AT_HOST.search(unquote(shown))
            return start + HIDDEN if is_hidden else shown
        uri = shown
    return HIDDEN


def redact_text(text: str) -> str:
    """Return a message with every address in it redacted; for messages of other libraries."""
    text = _SPACED_PASSWORD.sub("", text)
    return re.sub(r"[^\s'\"<>]+", lambda found: redact(found[0]), text)


def _redact_part(uri: str) -> str:
    part = FILE_PART.search(uri) if "#" in uri else None
    if part:
        shown = _redact(uri[: part.start()]) + part[0]
        if not _SECRETS.search(shown):
            return shown
    return _without_secrets(_redact(uri))


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
    if not SCHEME.fullmatch(scheme) or scheme.lower() not in KNOWN:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{rest}"


def _shown_web(rest: str) -> str:
    """Return what may be shown of the text after ``https://``."""
    place = re.search(r"[?#]", rest)
    main, query = (rest[: place.start()], rest[place.start() :]) if place else (rest, "")
    authority, slash, path = main.partition("/")
    user, _, host = authority.rpartition("@")
    is_host = _HOST.fullmatch(host) is not None
    # A password may contain ?, # or /, and then goes on up to a later @.
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
    """Return whether ``user:12/x@host/`` may be a password that starts like a port.

    A folder that starts with ``@`` is no host, nor is a file name with ``@`` and a dot after it.
    """
    if not _PORT.match(authority):
        return False
    inside = re.search("[^/]@", path)
    folders, _, name = path.rpartition("/")
    before, _, after = name.rpartition("@")
    return (inside is not None and inside.end() <= len(folders)) or (
        before != "" and "." not in after
    )


def _without_user(rest: str) -> str:
    """Return the text after ``s3://`` without a user before the bucket."""
    host, slash, path = rest.partition("/")
    user, _, bucket = host.rpartition("@")
    is_cut = _CUT_PASSWORD.match(bucket) is not None
    if "@" in path and (":" in user or is_cut):
        return rest.rpartition("@")[2]
    if is_cut or _is_cut_at_number(bucket, path):
        return HIDDEN
    return bucket + slash + _without_inner(path)


def _without_inner(path: str) -> str:
    """Return a path without an address inside it, as relative addresses are taken for paths."""
    last = path.rfind("@", 0, path.rfind("/") + 1)  # of a host; a file name may be a:b@2x.png
    inner = _USER.search(path, 0, last + 1) or _INNER.search(path, 0, path.rfind("@") + 1)
    return path[: inner.start()] + HIDDEN if inner else path


def _shown_local(path: str) -> str:
    """Return what may be shown of a local path; a query counts only in an address inside it."""
    user = _USER.search(path, 0, path.rfind("@") + 1)
    if user:
        return path[: user.start()] + HIDDEN
    scheme = _SCHEME_INSIDE.search(path)
    query = re.compile("[?#]").search(path, scheme.end()) if scheme else None
    return path[: query.start()] if query else path
