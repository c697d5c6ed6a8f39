"""The files below a folder, one by one: millions of them in the memory of a few thousand.

fsspec's ``find`` and pyarrow's ``FileSelector`` return all at once, and fsspec's ``walk`` holds a
folder at a time (a flat S3 prefix is one folder) and passes over folders that cannot be read.
"""

import contextlib
import datetime
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import botocore.utils
from fsspec.utils import glob_translate

from pipeline.data.storage import files, uris


class ListingError(ValueError):
    """A folder cannot be listed. The message says which and why."""


class File(NamedTuple):
    """A file's URI, and its path below the folder that was listed: the same under any root."""

    uri: str
    key: str


def iterate_files(uri: str, options: files.StorageOptions) -> Iterator[File]:
    """The files that ``uri`` stands for, in the storage's order: S3 sorts, a local disk does not.

    Links to files and folders are followed, but not round in circles; a broken link is a file, so
    that it is missed rather than forgotten.

    Args:
        uri: a folder, and all below it is meant; a file; or a glob (``*``, ``?``, ``[a-z]``, and
            ``**`` for any number of folders), whose keys begin after the last folder that is
            without such letters. What exists under the very name is not taken for a glob.

    Raises:
        ListingError: there is nothing of that name, or a folder cannot be read.
    """
    shown = uris.redact(uri)
    uri = uris.absolute(uri)
    if "::" in uri or uris.redact(uri) != uri:
        raise ListingError(
            f"{shown}: chained URIs, passwords and signed queries cannot go into a manifest; "
            "credentials belong into the environment or the storage options"
        )
    try:
        yield from _files(uri, options)
    except FileNotFoundError as error:
        raise ListingError(f"{shown}: there is no such file or folder") from error
    except PermissionError as error:
        reason = files.reason(error)
        raise ListingError(f"{shown}: a folder may not be listed: {reason}") from error
    except Exception as error:  # each file system raises its own kinds
        raise ListingError(f"{shown}: cannot be listed: {files.reason(error)}") from error


def _files(uri: str, options: files.StorageOptions) -> Iterator[File]:
    root, pattern = uri, ""
    if re.search(r"[*?[]", uri) and not files.exists(uri, options):
        literal = re.split(r"[*?[]", uri, maxsplit=1)[0]
        root = literal.rpartition("/")[0]
        pattern = uri[len(root) + 1 :]
    fs, path = files.filesystem(root or "/", options)
    if fs.info(path)["type"] != "directory":
        yield File(root, root.rpartition("/")[2])
        return
    matches = re.compile(glob_translate(pattern) if pattern else "").match
    depth = sys.maxsize if not pattern or "**" in pattern else pattern.count("/") + 1
    start = path.rstrip("/") + "/"
    for name in _names(fs, path, depth, re.split(r"[*?[]", pattern)[0], uris.scheme_of(uri)):
        key = name[len(start) :]
        if matches(key):
            yield File(f"{root}/{key}", key)


def _names(fs: Any, path: str, depth: int, prefix: str, scheme: str) -> Iterator[str]:
    """Files below ``path`` at most ``depth`` levels down; all whose keys begin with ``prefix``."""
    if scheme == "file":
        return _local(path, depth, frozenset())
    if scheme in ("s3", "s3a"):
        return _s3(fs, path, depth, prefix)
    return _any(fs, path, depth)


def _local(folder: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    above |= {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                there = entry.stat() if entry.is_symlink() else None
                circle = there is not None and (there.st_dev, there.st_ino) in above
                if depth > 1 and not circle:
                    yield from _local(entry.path, depth - 1, above)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path


def _s3(fs: Any, path: str, depth: int, prefix: str) -> Iterator[str]:
    """A page of 1000 keys in memory at a time; s3fs retries each page's request."""
    fs.connect()
    bucket, key, _ = fs.split_path(path)
    request = {"Bucket": bucket, "Prefix": f"{key}/{prefix}" if key else prefix, **fs.req_kw}
    if depth == 1:
        request["Delimiter"] = "/"
    while True:
        with _quick_times(fs.session):
            page = fs.call_s3("list_objects_v2", **request)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):  # what consoles make for a folder
                yield f"{bucket}/{item['Key']}"
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


@contextlib.contextmanager
def _quick_times(session: Any) -> Iterator[None]:
    """Have a session of botocore's, which others may share, read times by ``_timestamp``."""
    responses = session.get_component("response_parser_factory")
    responses.set_parser_defaults(timestamp_parser=_timestamp)
    try:
        yield
    finally:
        responses.set_parser_defaults(timestamp_parser=None)  # its own


def _timestamp(text: str) -> datetime.datetime:
    """What botocore makes of each object's time, which takes it two thirds of a listing."""
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        parsed: datetime.datetime = botocore.utils.parse_timestamp(text)
        return parsed


def _any(fs: Any, folder: str, depth: int) -> Iterator[str]:
    """A folder in memory at a time."""
    for info in fs.ls(folder, detail=True):
        if info["type"] != "directory":
            yield info["name"]
        elif depth > 1:
            yield from _any(fs, info["name"], depth - 1)
