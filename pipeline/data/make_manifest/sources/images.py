"""A folder of images as a data set."""

import re
from collections import Counter
from collections.abc import Collection, Iterator

from pipeline.data.make_manifest.sources.base import Content, Source
from pipeline.data.storage import files
from pipeline.data.storage.listing import File, iterate_files

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf"),
    *(".jpx", ".avif", ".avifs"),
)
"""File name endings of the formats that a job opens (``codec.FORMATS``)."""


def open_images(uri: str, options: files.StorageOptions) -> Source:
    """Return the images that ``uri`` stands for; none of them is opened."""

    def contents(skipped: Counter[str]) -> Iterator[Content]:
        for file in fitting(uri, options, ENDINGS, skipped):
            yield Content(file.uri, file.key, file.key)

    return Source("images", contents)


def fitting(
    uri: str, options: files.StorageOptions, endings: Collection[str], skipped: Counter[str]
) -> Iterator[File]:
    """Yield the files with one of the endings, and count the others by reason."""
    for file in iterate_files(uri, options):
        reason = unfit(file.key, endings)
        if reason:
            skipped[reason] += 1
        else:
            yield file


def unfit(key: str, endings: Collection[str]) -> str | None:
    """Return why a file is skipped; None if it is taken."""
    if key.startswith(".") or "/." in key:
        return "hidden"
    ending = ending_of(key)
    if ending not in endings:
        known = "." in key and re.fullmatch(r"(\.tar)?\.[a-z]\w{0,6}", ending)
        return ending if known else "others"
    if "::" in key:
        return "'::' in the name"
    return None if is_utf8(key) else "name not in UTF-8"


def ending_of(key: str) -> str:
    """Return a file name's ending in lower case with its dot: ``.jpg``, ``.tar.gz``."""
    name = key.rpartition("/")[2].lower()
    packed = re.search(r"\.tar\.(gz|bz2|xz|zst)$", name)
    return packed[0] if packed else "." + name.rpartition(".")[2]


def is_utf8(text: str) -> bool:
    """Return whether a name came from bytes that are UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
