"""Names that are safe as a pair's id or as a part of an image's path, on any storage."""

import functools
import re
import unicodedata
from collections.abc import Sequence

from pipeline.data.errors import RowError
from pipeline.redaction import redact

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


LABEL_BYTES, IMAGE_BYTES = 36, 66
"""Longest parts of a derived id: with a digest of 20 and what joins them they fit in 200 bytes."""

_DIGEST = re.compile(r"(?:.*-)?([0-9a-f]{16}|[0-9a-f]{20})")


def derive_id(label: str | None, content: str, styles: Sequence[str], digest: str) -> str:
    """Return the pair_id of a row that has none: ``cat--photo_12--starry_night--0123456789abcdef``.

    Args:
        label: the row's class, if it has one.
        content: path or URI of the content image; only its name is shown.
        styles: paths or URIs of the style images.
        digest: 16 or 20 hex digits, which alone make the id the pair's own.
    """
    style = _cut("+".join(filter(None, map(_readable_stem, styles))), IMAGE_BYTES)
    parts = [_readable(label or "", LABEL_BYTES), _readable_stem(content), style, digest]
    return "--".join(part for part in parts if part)


def digest_of(pair_id: str) -> str:
    """Return the digest at the end of a derived id; empty if it cannot be one.

    Earlier versions made ids of the same digests: alone, or behind names joined by single dashes.
    """
    found = _DIGEST.fullmatch(pair_id)
    return found[1] if found else ""


@functools.lru_cache(2**16)  # many rows share a style
def _readable_stem(uri: str) -> str:
    """Return a file's name without its ending, for an id; empty where it may hold a password."""
    name = re.split(r"[?#]", redact(uri), maxsplit=1)[0].rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return "" if re.search("[:@]", stem) else _readable(stem, IMAGE_BYTES)


def _readable(text: str, most: int) -> str:
    """Letters, digits, single dashes and underscores; without words that ``SPLIT_WORD`` finds."""
    text = re.sub(r"%[0-9A-Fa-f]{2}", "-", unicodedata.normalize("NFC", text))
    if text.isascii():
        kept = re.sub(r"[^\w-]", "-", text)
    else:
        kept = "".join(c if re.match(r"\w", c) or _is_mark(c) else "-" for c in text)
        kept = re.sub(r"(^|[-_])(\W+)", _drop_marks, kept)
    kept = re.sub(r"--+", "-", SPLIT_WORD.sub("-", kept))
    return _cut(kept, most)


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M" and not UNSEEN.match(letter)


def _drop_marks(found: "re.Match[str]") -> str:
    """Return a match without its marks, which need a letter before them."""
    return found[1] + "".join(c for c in found[2] if not _is_mark(c))


def _cut(text: str, most: int) -> str:
    """Return the first ``most`` bytes of a name, whole letters with their marks only."""
    cut = text.encode()[:most].decode(errors="ignore")
    if len(cut) < len(text) and _is_mark(text[len(cut)]):
        cut = cut.rstrip("".join(filter(_is_mark, cut)))[:-1]
    return cut.strip("-_+")


def _shown(part: str) -> str:
    """Return a name for a message: at most 80 characters, ignorable marks as their numbers."""
    part = redact(part)
    cut = f"{part[:80]}..." if len(part) > 80 else part
    return UNSEEN.sub(lambda found: f"\\U{ord(found[0]):08x}", repr(cut))
