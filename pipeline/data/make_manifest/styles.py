"""The styles of a manifest: which there are, how often each is drawn, and for which classes."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.errors import RowError
from pipeline.data.make_manifest import sampling
from pipeline.data.make_manifest.classes import Classes
from pipeline.data.make_manifest.sources.base import Content, Source, SourceError
from pipeline.data.manifest.sources import ManifestError
from pipeline.data.manifest.text_rows import ENDINGS, TextRows
from pipeline.data.storage import files, uris
from pipeline.data.words import columns_in_words

MOST_BYTES = 2**26
"""Largest JSON file of weights in bytes."""

LEAST, MOST = 1e-6, 1e6
"""Range of a style's weight, besides 0 for a style that is not used."""

NAME_COLUMNS = ("file_name", "style", "style_uri", "name")
"""Columns of a CSV file of weights that may hold the style's name."""


class Styles:
    """Styles that are held in memory, and the draws of them.

    Args:
        found: the styles, sorted by key.
        classes: the class that each is for; None if all are for all contents.
        weights: how often each is drawn, above 0; None for equal weights.
        per_content: how many each content gets; None for all.
        seed: of the draws.
    """

    def __init__(
        self,
        found: Sequence[Content],
        classes: Sequence[str] | None,
        weights: Sequence[float] | None,
        per_content: int | None,
        seed: int,
    ) -> None:
        self._found, self._per_content, self._seed = found, per_content, seed
        self._hashes = sampling.hash_keys([style.key for style in found])
        self._weights = None if weights is None else np.array(weights, dtype=np.float64)
        members: dict[str | None, list[int]] = {}
        for index in range(len(found)):
            members.setdefault(classes[index] if classes is not None else None, []).append(index)
        self._members: dict[str | None, npt.NDArray[np.intp]] = {
            name: np.array(indices, dtype=np.intp) for name, indices in members.items()
        }
        self._is_by_class = classes is not None

    def __len__(self) -> int:
        return len(self._found)

    def smallest(self) -> tuple[str | None, int]:
        """Return the class with the fewest styles, and how many these are."""
        return min(((name, len(some)) for name, some in self._members.items()), key=lambda x: x[1])

    def has_class(self, label: str | None) -> bool:
        """Return whether there are styles for contents with this label."""
        return not self._is_by_class or label in self._members

    def draw(self, contents: Sequence[Content]) -> list[list[Content]]:
        """Return the styles of each content, which depend on its key and its label alone.

        Args:
            contents: with labels that ``has_class`` accepts.
        """
        chosen: list[list[Content]] = [[] for _ in contents]
        groups: dict[str | None, list[int]] = {}
        for index, content in enumerate(contents):
            groups.setdefault(content.label if self._is_by_class else None, []).append(index)
        for name, indices in groups.items():
            keys = [contents[index].key for index in indices]
            for index, drawn in zip(indices, self._draw(keys, self._members[name]), strict=True):
                chosen[index] = [self._found[style] for style in drawn]
        return chosen

    def _draw(self, keys: Sequence[str], members: npt.NDArray[np.intp]) -> list[list[int]]:
        if self._per_content is None:
            return [members.tolist()] * len(keys)
        weights = None if self._weights is None else self._weights[members]
        hashes = self._hashes[members]
        drawn = sampling.choose(self._seed, keys, hashes, self._per_content, weights)
        return members[drawn].tolist()  # type: ignore[no-any-return]


def classes_of(styles: Sequence[Content], names: Classes | None) -> list[str | None]:
    """Return the class of each style: its label, or else the first folder of its path."""
    found: list[str | None] = []
    for style in styles:
        index = names.find(style.label, style.label_id) if names else None
        folder = style.path.split("/")[0] if "/" in style.path else None
        found.append(names.labels[index] if names and index is not None else style.label or folder)
    return found


def list_styles(source: Source, skipped: Counter[str]) -> list[Content]:
    """Return all styles, sorted by key."""
    return sorted(source.contents(skipped), key=lambda style: style.key)


def read_weights(given: str, options: files.StorageOptions) -> dict[str, float]:
    """Read weights of styles by name.

    Args:
        given: JSON (``{"night.png": 3}``), or the URI of a JSON, CSV, TSV or JSON lines file; a
            table has the columns ``file_name`` and ``weight``.
        options: fsspec options by scheme.

    Raises:
        SourceError: they cannot be read, or a weight is out of range.
    """
    shown = "style_weights"
    try:
        if given.lstrip().startswith("{"):
            found = json.loads(given)
        else:
            shown = f"style_weights {uris.redact(given)}"
            form = ENDINGS.get(given.rpartition(".")[2].lower())
            uri = uris.absolute(given)
            if form:
                found = _table(TextRows(uri, options, form), shown)
            else:
                found = json.loads(files.read_bytes(uri, options, MOST_BYTES).decode("utf-8-sig"))
    except RowError as error:
        raise SourceError(f"style_weights {error}") from error
    except ManifestError as error:
        text = str(error).removeprefix("manifest ")
        raise SourceError(f"style_weights {text}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{shown}: is no JSON such as {{'night.png': 3}} ({error}); a table's name ends in "
            ".csv, .tsv or .jsonl"
        ) from error
    if not isinstance(found, dict) or not found:
        raise SourceError(f"{shown}: holds no weights by name, such as {{'night.png': 3}}")
    for name, weight in found.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not (weight == 0 or LEAST <= weight <= MOST):
            raise SourceError(
                f"{shown}: {name[:80]!r} has the weight {weight!r:.80}; range: 0, or {LEAST:g} to "
                f"{MOST:g}"
            )
    return {name.removeprefix("./"): float(weight) for name, weight in found.items()}


def _table(rows: TextRows, shown: str) -> dict[str, float | str]:
    names = rows.schema.names
    name = next((column for column in NAME_COLUMNS if column in names), None)
    if name is None or "weight" not in names:
        raise SourceError(
            f"{shown}: needs the columns file_name and weight; it has {columns_in_words(names)}"
        )
    found: dict[str, float | str] = {}
    for some in rows.slices(1000):
        for index, row in enumerate(some.rows):
            if index in some.faults or row[name] is None:
                line = some.lines[index] if some.lines else index
                what = some.faults.get(index, "has no name")
                raise SourceError(f"{shown}: line {line} {what}")
            found[str(row[name]).strip()] = _number(row["weight"])
    return found


def _number(value: object) -> float | str:
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    return number if math.isfinite(number) else str(value)


def weigh(
    styles: Sequence[Content], weights: Mapping[str, float], shown: str
) -> tuple[list[Content], list[float]]:
    """Return the styles whose weight is not 0, with their weights; those not named have 1.

    Args:
        styles: all of them.
        weights: by key, or by the file's bare name.
        shown: where the styles come from, for messages.

    Raises:
        SourceError: there is no style of a name, or none is left.
    """
    unmet = set(weights)
    kept: list[tuple[Content, float]] = []
    for style in styles:
        names = [name for name in (style.key, style.key.rpartition("/")[2]) if name in weights]
        unmet -= set(names)
        weight = weights[names[0]] if names else 1.0
        if weight:
            kept.append((style, weight))
    if unmet:
        raise SourceError(
            f"style_weights: {min(unmet)[:80]!r} is no style in {shown}; give a style's file name, "
            "with or without its folders"
        )
    if not kept:
        raise SourceError(f"style_weights: all styles in {shown} have the weight 0")
    return [style for style, _ in kept], [weight for _, weight in kept]
