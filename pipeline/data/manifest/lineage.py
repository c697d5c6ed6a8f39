"""What a data set says of itself and its stylised copy keeps: ids of classes, names, licences."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import types

from pipeline.data.errors import RowError
from pipeline.data.manifest.features import CARD, class_names, features_of
from pipeline.data.names import is_name
from pipeline.data.storage import files, uris

RECIPE = "_manifest.json"
"""File that says how ``make_manifest`` built a manifest. Parquet readers skip such names."""

CREDITS = ("license", "license_url", "author", "attribution", "credit")
"""Columns that tell a picture's licence and author. They go into shards as they are."""

CARD_FIELDS = ("license", "license_name", "license_link")
"""Fields of a card's head that tell the licence."""

MOST_CLASSES = 100_000
"""Classes above which ids are not kept: every Parquet shard lists all names."""

MOST_RECIPE, MOST_CARD = 2**26, 2**20
"""Largest recipe and card in bytes."""

_HEAD = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Lineage:
    """What the sources of an output say; it is kept in ``job.json``.

    Attributes:
        ids: of the classes, by label; empty if the sources have none.
        names: of the classes as the source spells them, by id; empty if they are the labels.
        credits: columns of the records that tell licences and authors.
        licences: fields of the cards of ``content`` and ``style``.
    """

    ids: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    credits: tuple[str, ...] = ()
    licences: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the entry of ``job.json``."""
        return asdict(self)

    def after(self, earlier: "Lineage") -> "Lineage":
        """Return what holds for an output that has pairs of an earlier manifest too.

        If their ids contradict each other, those of this one are kept.
        """
        ids = {**earlier.ids, **self.ids}
        return Lineage(
            ids if len({*ids.values()}) == len(ids) else self.ids,
            max(self.names, earlier.names, key=len),
            tuple(dict.fromkeys((*earlier.credits, *self.credits))),
            {**earlier.licences, **self.licences},
        )


def from_json(found: Any) -> Lineage:
    """Return what an entry of ``job.json`` says; nothing if it is missing or of another form."""
    try:
        ids = {str(label): int(number) for label, number in found["ids"].items()}
        if not all(0 <= number < MOST_CLASSES for number in ids.values()):
            return Lineage()
        return Lineage(
            ids,
            tuple(map(str, found["names"])),
            tuple(name for name in CREDITS if name in found["credits"]),
            _licences(found["licences"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Lineage()


class ClassIds:
    """Gathers the id of each label from the rows of a plan.

    The id is in the column ``label_id``, or the label is a number.

    Args:
        schema: the manifest's columns.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._own = _is_number(schema, "label_id") or _is_text(schema, "label_id")
        self._is_number = not self._own and _is_number(schema, "label")
        self._pairs: set[tuple[str, Any]] = set()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows in the plan's form."""
        if len(self._pairs) > MOST_CLASSES or not (self._own or self._is_number):
            return
        column = "label_id" if self._own else "label"
        self._pairs.update((row["label"], row[column]) for row in rows if row["label"] is not None)

    def found(self) -> tuple[dict[str, int], str]:
        """Return the ids by label, and why there are none although some rows have one."""
        pairs = sorted((pair for pair in self._pairs if is_name(pair[0])), key=str)
        numbered = [(label, _whole(number)) for label, number in pairs]
        if all(number is None for _, number in numbered):
            return {}, ""
        ids: dict[str, int] = {}
        labels: dict[int, str] = {}
        for label, number in numbered:
            if number is None or number >= MOST_CLASSES:
                what = f"no id from 0 to {MOST_CLASSES - 1}"
                return {}, f"class {label[:80]!r} has {what}"
            if ids.setdefault(label, number) != number:
                return {}, f"class {label[:80]!r} has the ids {ids[label]} and {number}"
            if labels.setdefault(number, label) != label:
                return {}, f"the classes {labels[number][:80]!r} and {label[:80]!r} have one id"
        return ids, ""


def _whole(value: Any) -> int | None:
    """Return a class's id; None if it is none. Text files hold numbers as text."""
    text = "" if value is None or isinstance(value, bool) else str(value).strip()
    return int(text.removesuffix(".0")) if re.fullmatch(r"\d{1,9}(\.0)?", text) else None


def of_manifest(
    base: str, schema: pa.Schema, ids: Mapping[str, int], options: files.StorageOptions
) -> Lineage:
    """Return what a manifest and the files beside it say.

    Args:
        base: the manifest's folder.
        schema: its columns.
        ids: of the labels, as its rows have them.
        options: storage options by scheme.
    """
    recipe = _read(uris.join(base, RECIPE), options, MOST_RECIPE)
    told = _json_object(recipe)
    listed = _class_list(told.get("class_list"), schema)
    names: tuple[str, ...] = ()
    if ids and all(listed.get(label, ("",))[0] == number for label, number in ids.items()):
        ids = {label: number for label, (number, _) in listed.items()}
        names = tuple(name for _, name in listed.values())
    licences = told.get("licences") if recipe else {"content": card_fields(base, options)}
    return Lineage(
        ids,
        names,
        tuple(name for name in CREDITS if _is_text(schema, name)),
        _licences(licences),
    )


def _class_list(told: Any, schema: pa.Schema) -> dict[str, tuple[int, str]]:
    """Return id and name of each label: of the recipe, or of the column's features."""
    try:
        names = list(map(str, told["names"]))
        labels = list(map(str, told["labels"]))
    except (KeyError, TypeError):
        names = list(class_names(features_of(schema).get("label", {})) or ())
        labels = list(map(str, range(len(names))))
    pairs = zip(labels, enumerate(names), strict=False)
    is_sound = len({*labels}) == len({*names}) == len(names) <= MOST_CLASSES
    return dict(pairs) if is_sound else {}


def card_fields(folder: str, options: files.StorageOptions) -> dict[str, Any]:
    """Return what the card of a data set says of its licence.

    Args:
        folder: of the data set, or its ``data/``, as on the Hub.
        options: storage options by scheme.
    """
    above, _, name = folder.rstrip("/").rpartition("/")
    for place in (folder, above) if name == "data" else (folder,):
        data = _read(uris.join(place, CARD), options, MOST_CARD) or b""
        fields = _head(data.decode(errors="replace"))
        found = _licences({"content": fields}).get("content")
        if found:
            return found
    return {}


def _licences(told: Any) -> dict[str, dict[str, Any]]:
    """Return the fields of cards that tell a licence, by place; others are left out."""
    found = {}
    for place in ("content", "style"):
        fields = told.get(place) if isinstance(told, dict) else None
        if isinstance(fields, dict):
            found[place] = {
                name: fields[name] for name in CARD_FIELDS if _is_told(fields.get(name))
            }
    return {place: fields for place, fields in found.items() if fields}


def _head(text: str) -> dict[str, Any]:
    """Return the head of a card; empty if it has none."""
    head = _HEAD.match(text.replace("\r\n", "\n"))
    try:
        # The base loader makes nothing but text, lists and objects, and expands no merge keys.
        found = yaml.load(head[1], yaml.BaseLoader) if head else None  # noqa: S506
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_told(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def _is_text(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and bool(types.is_string(schema.field(name).type))


def _is_number(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type if name in schema.names else pa.null()
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _read(uri: str, options: files.StorageOptions, most: int) -> bytes | None:
    """Return a file's content; None if there is none or it cannot be read."""
    try:
        return files.read_bytes(uri, options, most)
    except RowError:
        return None


def _json_object(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
