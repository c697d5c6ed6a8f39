"""The fsspec and Arrow file systems of a URI, with this project's defaults.

Single requests are retried by the file systems themselves: botocore's standard mode for S3 waits
with exponential backoff and jitter, and s3fs adds some tries. Nothing here adds retries to that.
The web file system has no retries of its own, so ``web.retried`` repeats its reads.
"""

import copy
from collections.abc import Mapping
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.data.storage import web
from pipeline.data.storage.uris import absolute, local_path, respelt, scheme_of

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec options by scheme: ``{"s3": {"endpoint_url": "http://127.0.0.1:9000"}}``."""

S3_CONFIG: Mapping[str, Any] = {
    "retries": {"mode": "standard", "max_attempts": 6},
    "connect_timeout": 10,
    "read_timeout": 60,
}
"""botocore's settings for S3; timeouts are in seconds. A job's options may replace each of them."""

S3_TRIES = 3
"""Tries of s3fs, which it makes for bodies that are cut off. Each has several of botocore's. A
storage that takes connections and never answers fails a call after some 20 minutes. No watchdog
watches the driver, so this is what bounds its calls."""

PACKAGES = {
    "hf": "huggingface_hub",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""Packages that are not installed with this one, by the scheme that needs them."""


def filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """Return the fsspec file system of ``uri`` and the path in it.

    Raises:
        ImportError: the scheme's package is not installed.
        ValueError: no such scheme.
    """
    scheme = scheme_of(uri)
    given = dict(options.get(scheme, {}))
    if scheme in ("s3", "s3a"):
        # A copy: botocore changes what it is given.
        config = copy.deepcopy(dict(S3_CONFIG))
        given["config_kwargs"] = {**config, **(given.get("config_kwargs") or {})}
    if scheme in web.SCHEMES:
        given = {"get_client": web.get_client, **given}
    if scheme == "file":
        uri = local_path(uri)
        if not given and "::" not in uri:  # fsspec takes four times as long to find it
            disk = LocalFileSystem()
            return disk, disk._strip_protocol(uri)
    elif scheme != "hf":  # nothing is written there, and the hub counts requests
        # Ray's tasks change directories that this process has listed before.
        given = {"use_listings_cache": False, **given}
    try:
        fs, path = fsspec.core.url_to_fs(respelt(uri), **given)
    except ImportError as error:
        if scheme not in PACKAGES:
            raise
        raise ImportError(
            f"{scheme}:// needs a package that is not installed: pip install {PACKAGES[scheme]}"
        ) from error
    if scheme in ("s3", "s3a"):
        fs.retries = S3_TRIES
    return fs, path


def arrow_filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """Return a file system for pyarrow and Ray Data, and the path in it.

    It is Arrow's own for local paths, and a wrapped fsspec file system for all others.

    Raises:
        ImportError: the scheme's package is not installed.
        ValueError: no such scheme.
    """
    if scheme_of(uri) == "file":
        return pyarrow.fs.LocalFileSystem(), absolute(uri)
    fs, path = filesystem(uri, options)
    return pyarrow.fs.PyFileSystem(_Handler(fs)), path


def version(uri: str, options: StorageOptions) -> str | None:
    """Return a text that changes when the object is replaced, or None if it cannot be known.

    It is None for web addresses: many servers keep no versions, and signed addresses do not allow
    the request.
    """
    if scheme_of(uri) in web.SCHEMES:
        return None
    try:
        fs, path = filesystem(uri, options)
        found: str = fs.ukey(path)
    except Exception:  # each file system raises its own types
        return None
    return found


class _Handler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
    """Arrow's view of an fsspec file system, without folder markers.

    A folder marker is an object of 0 bytes whose name ends in a slash; consoles of object stores
    create them. Arrow would take one for a file of the data set.
    """

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        found = super().get_file_info_selector(selector)
        return [info for info in found if not info.path.endswith("/")]
