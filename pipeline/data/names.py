"""What may be a pair's id, or a part of an image's path, on any storage."""

import re
import unicodedata

from pipeline.data.errors import RowError

NAME = re.compile(r"(?!__)\w[\w .,()+=@~-]*")
"""What a pair_id, output_name, label or split may be, once the marks of its letters are left out:
one part of a path on any storage."""


UNSEEN = re.compile("[\u034f\u17b4\u17b5\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks that Unicode calls ignorable: names that differ in them look the same."""


SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9/])(?:train(?:ing)?|valid(?:ation)?|dev|val|test(?:ing)?|eval(?:uation)?)"
    r"(?![^-._ 0-9/])"
)
"""In the path of an image below its split: what Hugging Face's ``datasets`` takes for a split where
it is not told them (``SPLIT_KEYWORDS``)."""


LONGEST_NAME = 200
"""Bytes: file systems take 255, and temporary names add a few."""


def is_name(text: str) -> bool:
    """Whether it can be one part of an image's path on any storage."""
    too_long = len(text) * 4 > LONGEST_NAME < len(text.encode(errors="replace"))
    bare = _without_marks(text)
    return bool(NAME.fullmatch(bare)) and not too_long and text.casefold() != "metadata.parquet"


def _without_marks(text: str) -> str:
    """Without vowel signs, accents that stand by themselves and the like, of which Python's ``\\w``
    knows nothing. One at the beginning stays, and so does one that is not seen."""
    if text.isascii():
        return text
    marks = (unicodedata.category(letter)[0] == "M" for letter in text[1:])
    rest = zip(text[1:], marks, strict=True)
    return text[:1] + "".join(c for c, mark in rest if not mark or UNSEEN.match(c))


def file_key(stem: str) -> str:
    """Equal for names of one file where letters' case or composition does not count: on macOS."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", stem).casefold())


def check_name(column: str, part: str) -> None:
    """Refuse what cannot be one part of a path on any storage.

    Raises:
        RowError: ``bad_name``.
    """
    if not is_name(part):
        raise RowError(
            "bad_name",
            f"{column}: {_shown(part)} cannot be a file name; use letters, digits and "
            "._ ,()+=@~- (a letter or digit first, at most 200 bytes)",
        )


def _shown(part: str) -> str:
    """For a message: a name cut short, what is not seen in it as its number."""
    cut = f"{part[:80]}..." if len(part) > 80 else part
    return UNSEEN.sub(lambda found: f"\\U{ord(found[0]):08x}", repr(cut))
