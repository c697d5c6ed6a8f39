"""What fsspec's web file system lacks: retries, true reasons of errors, and safe redirects.

fsspec reports every failed request as "not found" and hides the reason in the error's cause. Unlike
botocore it never retries. It also follows every redirect; here none is followed from https to
http, since a job that allows https has not allowed http.
"""

import asyncio
import io
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec.asyn

from pipeline.data.errors import ErrorClass

SCHEMES = ("http", "https")
"""Schemes of web addresses."""

PIECE = 2**20
"""Bytes read from a response at a time."""

TRIES = 4
"""Tries of a read, the first included."""

PAUSE = 1.0
"""Longest pause before the second try in seconds; it doubles before each further try."""

Found = TypeVar("Found")


class DowngradeError(Exception):
    """An https server redirects to an address with another scheme."""


class NoRangesError(Exception):
    """A server sends a whole file where a range of its bytes was asked for."""


async def get_client(**options: Any) -> Any:
    """Return an HTTP session for fsspec's web file system that refuses unsafe redirects."""
    import aiohttp  # imported late: it takes 0.1 s, and most processes read no web address

    hops = aiohttp.TraceConfig()
    hops.on_request_redirect.append(_check_hop)
    return aiohttp.ClientSession(trace_configs=[hops], **options)


async def _check_hop(_session: object, _context: object, params: Any) -> None:
    import yarl

    here = params.response.url
    headers = params.response.headers
    target = headers.get("Location") or headers.get("URI") or ""  # as aiohttp does
    if here.scheme == "https" and here.join(yarl.URL(target)).scheme != "https":
        params.response.close()
        raise DowngradeError


def read(fs: Any, url: str, most: int | None) -> bytes | None:
    """Read a response body in one request; return None if it has more than ``most`` bytes.

    No more than that is held in memory, whatever the server says about ranges and lengths.

    Args:
        fs: fsspec's web file system.
        url: the address.
        most: largest size in bytes; None for no limit.
    """
    found: bytes | None = fsspec.asyn.sync(fs.loop, _read, fs, url, most)
    return found


async def _read(fs: Any, url: str, most: int | None) -> bytes | None:
    session = await fs.set_session()
    # A compressed body can grow a thousandfold.
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        fs._raise_not_found_for_status(response, url)
        if most is not None and (response.content_length or 0) > most:
            return None
        whole = io.BytesIO()
        while part := await response.content.read(PIECE):
            whole.write(part)
            if most is not None and whole.tell() > most:
                return None
    return whole.getvalue()


def read_range(fs: Any, url: str, start: int, size: int) -> bytes:
    """Read ``size`` bytes of a web file from byte ``start``; fewer if the file ends before.

    Raises:
        NoRangesError: the server answers with the whole file.
    """
    found: bytes = fsspec.asyn.sync(fs.loop, _read_range, fs, url, start, size)
    return found


async def _read_range(fs: Any, url: str, start: int, size: int) -> bytes:
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    headers["Range"] = f"bytes={start}-{start + size - 1}"
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        if response.status == 416:  # the file ends before the range
            return b""
        fs._raise_not_found_for_status(response, url)
        if response.status != 206:
            raise NoRangesError
        whole = io.BytesIO()
        while whole.tell() < size and (part := await response.content.read(PIECE)):
            whole.write(part)
    return whole.getvalue()[:size]


def retried(read: Callable[[], Found]) -> Found:
    """Call ``read``, up to ``TRIES`` times if the server is busy, broken or cannot be reached.

    Raises:
        Exception: that of the last try, or the first that further tries would not change.
    """
    for number in range(TRIES - 1):
        try:
            return read()
        except Exception as error:
            if not _may_pass(error):
                raise
        # Random, so that the workers of a job do not all come back at once.
        time.sleep(random.uniform(0, PAUSE * 2**number))  # noqa: S311
    return read()


def explain(error: Exception) -> tuple[ErrorClass, str]:
    """Return the class of a read's error and a message about it, which never holds the address."""
    cause, status = _cause(error), _status(error)
    if isinstance(cause, DowngradeError):
        return (
            "scheme_not_allowed",
            "redirects from https to another scheme, which is not followed; give the final address",
        )
    if isinstance(cause, NoRangesError):
        return (
            "read_failed",
            "the server sends whole files only, no ranges of bytes; copy the file to a disk or an "
            "object store",
        )
    if status in (404, 410) or isinstance(cause, FileNotFoundError):
        return "not_found", "does not exist"
    if status in (401, 403):
        return "access_denied", f"access denied: the server answers {status}"
    if status is not None:
        return "read_failed", f"cannot be read: the server answers {status}"
    # Only a socket error's text is safe: others may repeat the address with its password.
    text = getattr(cause, "strerror", None)
    name = type(cause).__name__
    return "read_failed", f"cannot be read: {name}: {text}" if text else f"cannot be read: {name}"


def _cause(error: BaseException) -> BaseException:
    return (isinstance(error, FileNotFoundError) and error.__cause__) or error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of the server's answer, or None if there was no answer."""
    import aiohttp

    cause = _cause(error)
    return cause.status if isinstance(cause, aiohttp.ClientResponseError) else None


def _may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed a little later."""
    import aiohttp

    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    away = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError)
    return isinstance(_cause(error), away)
