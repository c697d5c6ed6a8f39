"""Labels and splits from a CSV file, looked up by file name. A row takes 20 bytes of memory."""

import csv
import hashlib
import io
from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.data.storage import failures, files, filesystems, uris
from pipeline.data.words import columns_in_words

Place = tuple[str | None, str | None]
"""A label and a split."""


class LabelsError(ValueError):
    """The CSV file cannot be used. The message says why, and names rows that disagree."""


class Labels:
    """Labels and splits of images, from a CSV file.

    Args:
        uri: URI of the file; its header must name ``file_name`` and the ``columns``.
        columns: ``label``, ``split`` or both.
        options: storage options by scheme.

    Raises:
        LabelsError: the file cannot be read, lacks a column, or contradicts itself.
    """

    def __init__(self, uri: str, columns: tuple[str, ...], options: files.StorageOptions) -> None:
        shown = f"labels {uris.redact(uri)}"
        places: dict[Place, int] = {}
        hashes, codes = array("Q"), array("q")
        try:
            for name, place in _rows(uri, columns, options, shown):
                hashes.append(_hash(name))
                codes.append(places.setdefault(place, len(places)))
        except LabelsError:
            raise
        except FileNotFoundError as error:
            raise LabelsError(f"{shown}: does not exist") from error
        except Exception as error:  # file systems, csv and UTF-8 raise many classes
            raise LabelsError(
                f"{shown}: cannot be read: {failures.reason_at(uri, error)}"
            ) from error
        if not hashes:
            raise LabelsError(f"{shown}: it has no rows")
        self._places = list(places)
        names = np.frombuffer(hashes, dtype=np.uint64)
        order = np.argsort(names, kind="stable")
        self._names: npt.NDArray[np.uint64] = names[order]
        self._codes: npt.NDArray[np.int64] = np.frombuffer(codes, dtype=np.int64)[order]
        self._met = np.zeros(len(order), dtype=bool)
        same = self._names[1:] == self._names[:-1]
        twice = np.flatnonzero(same & (self._codes[1:] != self._codes[:-1]))
        if len(twice):
            rows = " and ".join(str(int(row) + 1) for row in order[twice[0] : twice[0] + 2])
            raise LabelsError(f"{shown}: rows {rows} disagree about the same file")

    def find(self, key: str) -> Place | None:
        """Return label and split of an image, by its path below the root or its bare file name."""
        for name in (key, key.rpartition("/")[2]):
            wanted = np.uint64(_hash(name))
            place = int(np.searchsorted(self._names, wanted))
            if place < len(self._names) and self._names[place] == wanted:
                self._met[place] = True
                return self._places[int(self._codes[place])]
        return None

    def count_unmet(self) -> int:
        """Return how many of the files in the CSV file were never looked up."""
        first = np.append(True, self._names[1:] != self._names[:-1])
        return int((first & ~self._met).sum())


def _rows(
    uri: str, columns: tuple[str, ...], options: files.StorageOptions, shown: str
) -> Iterator[tuple[str, Place]]:
    fs, path = filesystems.filesystem(uris.absolute(uri), options)
    with fs.open(path, "rb") as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text)
        missing = {"file_name", *columns} - set(reader.fieldnames or ())
        if missing:
            have = columns_in_words([*(reader.fieldnames or ())])
            raise LabelsError(
                f"{shown}: the header lacks {' and '.join(sorted(missing))}; it has {have}"
            )
        for row in reader:
            found = {name: (row[name] or "").strip() or None for name in columns}
            name = (row["file_name"] or "").strip().removeprefix("./")
            yield name, (found.get("label"), found.get("split"))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
