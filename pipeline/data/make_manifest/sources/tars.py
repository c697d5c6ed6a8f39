"""Tars of samples as ``webdataset`` writes them: members of one key are one sample."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipeline.data.errors import RowError
from pipeline.data.make_manifest.sources.base import (
    Columns,
    Content,
    Source,
    SourceError,
    number_of,
    split_in,
)
from pipeline.data.make_manifest.sources.images import ENDINGS, ending_of, fitting, is_utf8
from pipeline.data.storage import file_parts, files, tars, uris
from pipeline.data.storage.listing import File
from pipeline.data.storage.tars import Member

TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""File name endings of tars. A compressed one is refused when it is opened."""

CLASS_LISTS = ("classes.txt", "classes.json")
"""Files in the tars' folder that list the names of classes in the order of their ids."""

LABEL_FIELDS = ("label", "cls", "class", "class_name")
"""Fields of a ``json`` member that may hold the class, by name or by number."""

_SAMPLE = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
"""A member's key and its ending; the key ends at the first dot of the file name."""


class _Unfit(Exception):  # noqa: N818  # a reason to skip, not an error
    """A sample is skipped; the text says why."""


class _Sample(NamedTuple):
    key: str
    members: dict[str, tuple[Member, bytes | None]]  # by ending, in lower case


def open_tars(uri: str, options: files.StorageOptions, columns: Columns) -> Source:
    """Return the samples of the tars that ``uri`` stands for.

    Only headers and the small members with labels are read. A sample's key is that of its image
    member behind the tar's.

    Args:
        uri: a folder, a tar, a glob, or names with braces.
        options: fsspec options by scheme.
        columns: ``image`` and ``label`` are endings of members; ``label`` may be a field of the
            ``json`` member instead.
    """
    reader = _Reader(options, columns)

    def contents(skipped: Counter[str]) -> Iterator[Content]:
        for file in fitting(uri, options, TARS, skipped):
            yield from reader.contents(file, skipped)

    return Source("tar", contents, frozenset({"label", "label_id", "split"}))


class _Reader:
    def __init__(self, options: files.StorageOptions, columns: Columns) -> None:
        self._options, self._columns = options, columns
        self._label = columns.label.lower().lstrip(".")

    def contents(self, file: File, skipped: Counter[str]) -> Iterator[Content]:
        """Yield a tar's contents.

        Raises:
            SourceError: nothing of the tar can be read. If it breaks off later, that is counted.
        """
        split, count = split_in(file.key), 0
        try:
            for sample in self._samples(file, skipped):
                count += 1
                try:
                    yield self._content(file, split, sample)
                except _Unfit as reason:
                    skipped[str(reason)] += 1
        except RowError as error:
            if not count:
                raise SourceError(str(error)) from error
            skipped[f"tar cut off or damaged: {file.key}"] += 1

    def _samples(self, file: File, skipped: Counter[str]) -> Iterator[_Sample]:
        """Yield the samples. At a cut the last one, which may lack members, is left out."""
        members = tars.members_with_data(file.uri, self._options, self._holds_label)
        named = ((_SAMPLE.fullmatch(member[0].name), member) for member in members)
        for key, some in itertools.groupby(named, lambda pair: pair[0] and pair[0][1]):
            if key is None or "/." in key:
                skipped["without a sample's key"] += sum(1 for _ in some)
            else:
                yield _Sample(key, {found[2].lower(): member for found, member in some if found})

    def _holds_label(self, name: str) -> bool:
        ending = name.rpartition("/")[2].partition(".")[2].lower()
        return ending in {"cls", "json", self._label}

    def _content(self, file: File, split: str | None, sample: _Sample) -> Content:
        image = self._image(file, sample)
        if not image.size:
            raise _Unfit("with an empty picture")
        if not is_utf8(image.name):
            raise _Unfit("name not in UTF-8")
        label, label_id = self._class(sample)
        folder = file.key.rpartition("/")[0]
        return Content(
            file_parts.tar_part(file.uri, image.name, image.offset, image.size),
            f"{file.key}/{image.name}",
            f"{folder}/{image.name}" if folder else image.name,
            label,
            label_id,
            split,
        )

    def _image(self, file: File, sample: _Sample) -> Member:
        wanted = self._columns.image.lower().lstrip(".")
        if wanted:
            if wanted not in sample.members:
                raise _Unfit(f"without a member .{wanted}")
            return sample.members[wanted][0]
        found = [ending for ending in sample.members if ending_of(f"x.{ending}") in ENDINGS]
        # A mask is often called KEY.seg.png beside KEY.jpg.
        plain = [ending for ending in found if "." not in ending]
        if not found:
            raise _Unfit("without a picture")
        if len(plain or found) > 1:
            raise SourceError(
                f"{uris.redact(file.uri)}: sample {sample.key[:80]!r} has several pictures "
                f"({', '.join(sorted(found))}); choose one with --image-column"
            )
        return sample.members[(plain or found)[0]][0]

    def _class(self, sample: _Sample) -> tuple[str | None, int | None]:
        """Return the name and the number of a sample's class, as far as it has them."""
        own = sample.members.get(self._label or "cls")
        if own:
            text = _text(own[1]).strip()
            return _named(int(text) if re.fullmatch(r"[+-]?\d{1,9}", text) else text)
        if "json" not in sample.members:
            return None, None
        try:
            fields = json.loads(_text(sample.members["json"][1]))
        except (ValueError, RecursionError) as error:
            raise _Unfit("with a json member that cannot be read") from error
        if not isinstance(fields, dict):
            return None, None
        names = (self._columns.label,) if self._label else LABEL_FIELDS
        found = [_named(fields[name]) for name in names if name in fields]
        if not self._label:
            found.append((None, number_of(fields.get("label_id"))))
        label = next((name for name, _ in found if name is not None), None)
        return label, next((number for _, number in found if number is not None), None)


def _named(value: Any) -> tuple[str | None, int | None]:
    if isinstance(value, str):
        return value.strip() or None, None
    return None, number_of(value)


def _text(data: bytes | None) -> str:
    if data is None:
        raise _Unfit(f"with a label member of more than {tars.MOST_DATA} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _Unfit("with a label not in UTF-8") from error


def names_beside(uri: str, options: files.StorageOptions) -> str | None:
    """Return the URI of the file that lists the classes in the tars' folder, if there is one."""
    whole = uris.absolute(uri)
    literal = re.split(r"[{*?[]", whole, maxsplit=1)[0]
    is_tar = literal != whole or ending_of(whole) in TARS
    folder = literal.rpartition("/")[0] if is_tar else whole
    found = (uris.join(folder, name) for name in CLASS_LISTS)
    return next((name for name in found if files.exists(name, options)), None)
