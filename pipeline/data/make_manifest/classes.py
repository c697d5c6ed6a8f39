"""The classes of a data set: their names in the order of their ids."""

import json
import re
from collections import Counter
from collections.abc import Sequence

from pipeline.data.errors import RowError
from pipeline.data.make_manifest.sources.base import SourceError
from pipeline.data.names import LONGEST_NAME, is_name
from pipeline.data.storage import files, uris

MOST_BYTES = 2**26
"""Largest file of class names in bytes."""


class Classes:
    """The list of classes. A label becomes a folder's name, so some names are spelt otherwise.

    Args:
        names: as the data set has them, in the order of their ids.

    Attributes:
        names: the same.
        labels: names that are valid as folders, in the same order, all different.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.labels: list[str] = []
        taken: set[str] = set()
        for index, name in enumerate(names):
            label = _as_folder(name) or f"class-{index}"
            if label.casefold() in taken:
                label = f"{label}-{index}"
            taken.add(label.casefold())
            self.labels.append(label)
        self._ids = {label: index for index, label in enumerate(self.labels)}
        self._ids |= {name: index for index, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: str | None, number: int | None) -> int | None:
        """Return the id of a class, by its name or its number; None if it is not in the list."""
        if name is None:
            return number if number is not None and 0 <= number < len(self) else None
        if name in self._ids:
            return self._ids[name]
        # Text files hold numbers as text.
        return self.find(None, int(name)) if re.fullmatch(r"\d{1,9}", name) else None


def _as_folder(name: str) -> str:
    """Return a name as it is, if it is valid as a folder, or with other characters replaced."""
    if is_name(name):
        return name
    kept = re.sub("--+", "-", re.sub(r"[^\w .,()+=@~-]+", "-", name)).lstrip(" .,()+=@~-_")
    kept = kept.encode()[: LONGEST_NAME // 2].decode(errors="ignore").strip()
    return kept if is_name(kept) else ""


def read_names(uri: str, options: files.StorageOptions) -> list[str]:
    """Read the names of classes in the order of their ids.

    Args:
        uri: a text file with a name in each line, or JSON: a list of names, or an object of ids by
            name.
        options: fsspec options by scheme.

    Raises:
        SourceError: it cannot be read, or is none of these.
    """
    shown = f"class names {uris.redact(uri)}"
    try:
        text = files.read_bytes(uris.absolute(uri), options, MOST_BYTES).decode("utf-8-sig")
        found = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
    except RowError as error:
        raise SourceError(f"class names {error}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{shown}: is not UTF-8; save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{shown}: begins as JSON, and is none ({error})") from error
    if isinstance(found, dict):
        by_id = {str(number): name for name, number in found.items()}
        if by_id.keys() != {str(number) for number in range(len(found))}:
            raise SourceError(f"{shown}: the ids must be 0, 1, 2 and so on, one for each name")
        found = [by_id[str(number)] for number in range(len(found))]
    names = [str(name).strip() for name in found]
    while names and not names[-1]:
        names.pop()
    counts = Counter(names)
    if len(counts) < len(names) or not names:
        what = f"{counts.most_common(1)[0][0][:80]!r} is there twice" if names else "it is empty"
        raise SourceError(f"{shown}: {what}; write one name in each line, in the order of the ids")
    return names
