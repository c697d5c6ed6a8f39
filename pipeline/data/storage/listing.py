"""List the files below a folder one by one, so that millions of them need little memory.

fsspec's ``find`` and pyarrow's ``FileSelector`` return all files at once. fsspec's ``walk`` holds
one folder at a time, but a flat S3 prefix is one folder, and it skips folders that cannot be read.
"""

import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from fsspec.utils import glob_translate

from pipeline.data.storage import files, uris
from pipeline.data.storage.failures import reason
from pipeline.data.storage.filesystems import StorageOptions, filesystem

BRACES = re.compile(r"\{(?:(?P<first>\d{1,9})\.\.(?P<last>\d{1,9})|(?P<listed>[^{}]*,[^{}]*))\}")
"""Braces that stand for several texts: ``{000..099}`` or ``{train,val}``."""


class ListingError(ValueError):
    """A folder cannot be listed; the message says which one and why."""


class File(NamedTuple):
    """A listed file.

    Attributes:
        uri: its address.
        key: its path relative to the listed folder, the same under any root.
    """

    uri: str
    key: str


def iterate_files(uri: str, options: StorageOptions) -> Iterator[File]:
    """Yield the files that ``uri`` stands for, in the storage's order.

    S3 sorts by key; a local disk does not sort. Links to files and folders are followed, except a
    link to a folder that contains it. A broken link is yielded as a file, so that a later read
    reports it.

    Args:
        uri: a folder, for all files below it; a file; or a glob (``*``, ``?``, ``[a-z]``, and
            ``**`` for any number of folders). The keys of a glob's files start after its last
            folder without such characters. A URI that exists as it is written is no glob.
        options: fsspec options by scheme.

    Raises:
        ListingError: ``uri`` does not exist, a folder cannot be read, or the URI is chained or
            holds a credential.
    """
    shown = uris.redact(uri)
    uri = uris.absolute(uri)
    if "::" in uri or uris.redact(uri) != uri:
        raise ListingError(
            f"{shown}: chained URIs, passwords and signed queries cannot go into a manifest; "
            "put credentials into the environment or the storage options"
        )
    try:
        if BRACES.search(uri) and not files.exists(uri, options):
            yield from _expanded(uri, options)
        else:
            yield from _files(uri, options)
    except ListingError:
        raise
    except FileNotFoundError as error:
        raise ListingError(f"{shown}: there is no such file or folder") from error
    except PermissionError as error:
        raise ListingError(f"{shown}: a folder may not be listed: {reason(error)}") from error
    except Exception as error:  # each file system raises its own types
        raise ListingError(f"{shown}: cannot be listed: {reason(error)}") from error


def expand_braces(text: str) -> Iterator[str]:
    """Yield the texts that a pattern with braces stands for, as a shell and webdataset have them.

    ``{000..099}`` counts, up or down, with as many digits as the longer end if one begins with a
    zero; ``{train,val}`` lists alternatives. Each pair of braces multiplies the texts; there are no
    braces within braces. Other braces stay as they are.
    """
    found = BRACES.search(text)
    if not found:
        yield text
        return
    for inside in _alternatives(found):
        for rest in expand_braces(text[found.end() :]):
            yield f"{text[: found.start()]}{inside}{rest}"


def _alternatives(found: re.Match[str]) -> Iterator[str]:
    first, last = found["first"], found["last"]
    if first is None:
        yield from found["listed"].split(",")
        return
    start, end = int(first), int(last)
    padded = any(len(digits) > 1 and digits[0] == "0" for digits in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if end >= start else -1
    for number in range(start, end + step, step):
        yield f"{number:0{width}d}"


def _expanded(uri: str, options: StorageOptions) -> Iterator[File]:
    folder = re.split(r"[{*?[]", uri, maxsplit=1)[0].rpartition("/")[0]
    for one in expand_braces(uri):
        try:
            for file in _files(one, options):
                yield File(file.uri, file.uri.removeprefix(f"{folder}/"))
        except FileNotFoundError as error:
            raise ListingError(
                f"{uris.redact(one)}: there is no such file or folder; it is one of "
                f"{uris.redact(uri)}"
            ) from error


def _files(uri: str, options: StorageOptions) -> Iterator[File]:
    root, pattern = uri, ""
    if re.search(r"[*?[]", uri) and not files.exists(uri, options):
        literal = re.split(r"[*?[]", uri, maxsplit=1)[0]
        root = literal.rpartition("/")[0]
        pattern = uri[len(root) + 1 :]
    fs, path = filesystem(root or "/", options)
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
    """Yield the files at most ``depth`` levels below ``path``.

    All whose keys start with ``prefix`` are yielded; others may be left out.
    """
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
                is_loop = there is not None and (there.st_dev, there.st_ino) in above
                if depth > 1 and not is_loop:
                    yield from _local(entry.path, depth - 1, above)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path


def _s3(fs: Any, path: str, depth: int, prefix: str) -> Iterator[str]:
    """Yield keys from one page of 1000 at a time; s3fs retries each page's request.

    botocore takes five sixths of a page's parsing for the objects' times, which are not used here.
    So they are left as text. That is a setting of the session, which users of equal file systems
    share; the listing has a file system of its own.
    """
    fs = type(fs)(**{**fs.storage_options, "skip_instance_cache": True})
    fs.connect()
    parsers = fs.session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=str)
    bucket, key, _ = fs.split_path(path)
    request = {"Bucket": bucket, "Prefix": f"{key}/{prefix}" if key else prefix, **fs.req_kw}
    if depth == 1:
        request["Delimiter"] = "/"
    while True:
        page = fs.call_s3("list_objects_v2", **request)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):  # a console's folder marker
                yield f"{bucket}/{item['Key']}"
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _any(fs: Any, folder: str, depth: int) -> Iterator[str]:
    """Yield files, with the entries of one folder at a time in memory."""
    for info in fs.ls(folder, detail=True):
        if info["type"] != "directory":
            yield info["name"]
        elif depth > 1:
            yield from _any(fs, info["name"], depth - 1)
