"""What the contents of a manifest come from, in one form for all kinds of data sets."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.data.names import SPLIT_WORD


class SourceError(ValueError):
    """A data set cannot be listed. The message says which part of it, why and what to do."""


class Content(NamedTuple):
    """An image that a data set holds.

    Attributes:
        uri: of its file, or of the bytes inside a file (``storage.file_parts``).
        key: its name below what was listed, the same under any root. Draws and ids depend on it.
        path: its path below what was listed, for labels by folder or by file name.
        label: name of its class as the data set has it.
        label_id: number of its class; negative for none.
        split: such as ``train``.
        credits: licence and author, by column (``lineage.CREDITS``).
    """

    uri: str
    key: str
    path: str
    label: str | None = None
    label_id: int | None = None
    split: str | None = None
    credits: Mapping[str, str] = {}


@dataclass(frozen=True)
class Source:
    """A data set that has been opened.

    Attributes:
        form: the setting ``content_format`` that stands for it.
        contents: yields the contents and counts what is skipped, by reason.
        columns: which of ``label``, ``label_id``, ``split`` and ``lineage.CREDITS`` its contents
            may have.
        names: of its classes, in the order of their ids; None if it has no list of them.
    """

    form: str
    contents: Callable[[Counter[str]], Iterator[Content]]
    columns: frozenset[str] = frozenset()
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Columns:
    """Names of columns, of a tar's members or of fields that a user chose; empty for the usual.

    Attributes:
        image: holds the picture, or names its file.
        label: holds the class.
        key: holds a name of the picture that no other one has.
    """

    image: str = ""
    label: str = ""
    key: str = ""


_NUMBERED = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b")


def number_of(value: object) -> int | None:
    """Return a class's number, of 64 bits; None for another value. pandas turns 7 into 7.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -(2**63) <= value < 2**63 else None


def split_in(folders_and_name: str) -> str | None:
    """Return the split that the path of a data set's file tells, in the file's own word.

    As in Hugging Face's ``datasets``, it is what stands before ``-00000-of-00002``, or a word such
    as ``train`` or ``val`` in the file's name or in a folder; the last folder comes first.
    """
    *folders, name = folders_and_name.split("/")
    numbered = _NUMBERED.match(name)
    if numbered:
        return numbered[1]
    for part in (name, *reversed(folders)):
        found = SPLIT_WORD.search(part.lower())
        if found:
            return part[found.start() : found.end()]
    return None
