"""Requests of fsspec's HTTP: why one failed, which fsspec hides, and further tries.

Whatever goes wrong when fsspec looks at a web address it calls "not found", with what it was as the
error's cause. Unlike botocore it asks nothing twice. And it follows every redirect: from https to
http none is followed here, as a job that allows https alone has not allowed the other.
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

PIECE = 2**20
"""Bytes that are taken at a time."""

TRIES = 4
"""Of one read."""

PAUSE = 1.0
"""Seconds at most before the second try; twice as many before each further one."""

Found = TypeVar("Found")


class DowngradeError(Exception):
    """A server of https sends its client on to an address that is none."""


async def get_client(**options: Any) -> Any:
    """The session of fsspec's file system for the web."""
    import aiohttp  # late: 0.1 s in each process, and most read no web address

    hops = aiohttp.TraceConfig()
    hops.on_request_redirect.append(_check_hop)
    return aiohttp.ClientSession(trace_configs=[hops], **options)


async def _check_hop(_session: object, _context: object, params: Any) -> None:
    import yarl

    here = params.response.url
    headers = params.response.headers
    target = headers.get("Location") or headers.get("URI") or ""  # as aiohttp looks for it
    if here.scheme == "https" and here.join(yarl.URL(target)).scheme != "https":
        params.response.close()
        raise DowngradeError


def read(fs: Any, url: str, most: int | None) -> bytes | None:
    """What a server sends, in one request and piece by piece; None if it is more than ``most``.

    Whatever it says of ranges and lengths, no more than that is in memory.
    """
    found: bytes | None = fsspec.asyn.sync(fs.loop, _read, fs, url, most)
    return found


async def _read(fs: Any, url: str, most: int | None) -> bytes | None:
    session = await fs.set_session()
    # What is packed could be a thousand times as long.
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


def retried(read: Callable[[], Found]) -> Found:
    """What ``read`` returns; it is tried again where the server is busy, broken or away.

    Raises:
        Exception: the last try's, or the first that no other try would mend.
    """
    for number in range(TRIES - 1):
        try:
            return read()
        except Exception as error:
            if not _may_pass(error):
                raise
        # By lot: the workers of a job must not come back all at once.
        time.sleep(random.uniform(0, PAUSE * 2**number))  # noqa: S311
    return read()


def explain(error: Exception) -> tuple[ErrorClass, str]:
    """The class of a read's error, and what is to be said of it: never the address."""
    cause, status = _cause(error), _status(error)
    if isinstance(cause, DowngradeError):
        return (
            "scheme_not_allowed",
            "redirects from https to another scheme, which is not followed; give the address that "
            "it leads to",
        )
    if status in (404, 410) or isinstance(cause, FileNotFoundError):
        return "not_found", "does not exist"
    if status in (401, 403):
        return "access_denied", f"access denied: the server answers {status}"
    if status is not None:
        return "read_failed", f"cannot be read: the server answers {status}"
    # The text of other errors may repeat the address with its password; a socket's does not.
    text = getattr(cause, "strerror", None)
    name = type(cause).__name__
    return "read_failed", f"cannot be read: {name}: {text}" if text else f"cannot be read: {name}"


def _cause(error: BaseException) -> BaseException:
    return (isinstance(error, FileNotFoundError) and error.__cause__) or error


def _status(error: BaseException) -> int | None:
    """Of the server's answer; None if there was none."""
    import aiohttp

    cause = _cause(error)
    return cause.status if isinstance(cause, aiohttp.ClientResponseError) else None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    import aiohttp

    status = _status(error)
    if status is not None:
        return status == 429 or status >= 500
    away = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, asyncio.TimeoutError)
    return isinstance(_cause(error), away)
