"""Names that are safe as a pair's id or as a part of an image's path, on any storage."""

import re
import unicodedata

from pipeline.data.errors import RowError

NAME = re.compile(r"(?!__)\w[\w .,()+=@~-]*")
"""A valid pair_id, output_name, label or split, after combining marks are removed from it: one part
of a path on any storage."""

UNSEEN = re.compile("[\u034f\u17b4\u17b5\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks that Unicode calls ignorable: names that differ only in them look the same."""

SPLIT_WORD = re.compile(
    r"(?<![^-._ 0-9/])(?:train(?:ing)?|valid(?:ation)?|dev|val|test(?:ing)?|eval(?:uation)?)"
    r"(?![^-._ 0-9/])"
)
"""A word in an image's path from which Hugging Face's ``datasets`` infers a split, unless a data
set names its splits (``SPLIT_KEYWORDS`` there)."""

LONGEST_NAME = 200
"""Longest name in bytes: file systems allow 255, and temporary names add a few."""


def is_name(text: str) -> bool:
    """Return whether a text is valid as one part of an image's path on any storage."""
    too_long = len(text) * 4 > LONGEST_NAME < len(text.encode(errors="replace"))
    bare = _without_marks(text)
    return bool(NAME.fullmatch(bare)) and not too_long and text.casefold() != "metadata.parquet"


def _without_marks(text: str) -> str:
    r"""Return the text without combining marks (vowel signs, accents), which ``\w`` does not match.

    A mark at the start stays, and so do those in ``UNSEEN``.
    """
    if text.isascii():
        return text
    marks = (unicodedata.category(letter)[0] == "M" for letter in text[1:])
    rest = zip(text[1:], marks, strict=True)
    return text[:1] + "".join(c for c, mark in rest if not mark or UNSEEN.match(c))


def file_key(stem: str) -> str:
    """Return a key that is equal for names that macOS takes for one: it ignores case and form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", stem).casefold())


def check_name(column: str, part: str) -> None:
    """Refuse a text that is not valid as one part of a path on any storage.

    Args:
        column: where it comes from, for the message.
        part: the text.

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
    """Return a name for a message: at most 80 characters, ignorable marks as their numbers."""
    cut = f"{part[:80]}..." if len(part) > 80 else part
    return UNSEEN.sub(lambda found: f"\\U{ord(found[0]):08x}", repr(cut))
