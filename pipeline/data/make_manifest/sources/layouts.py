"""Which columns of a Parquet file hold the pictures, the classes and the splits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from pipeline.data.make_manifest.sources.base import Columns, SourceError
from pipeline.data.manifest.features import class_names, features_of
from pipeline.data.manifest.lineage import CREDITS
from pipeline.data.storage import parquet_images
from pipeline.data.words import columns_in_words

IMAGE_COLUMNS = ("image", "img", "content_image", "content", "picture", "jpg", "png")
"""Names that decide if several columns hold pictures."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a file hold what.

    Attributes:
        image: the pictures.
        label: the class, by name or by number; None if there is none.
        split: the split, if there is a column of this name.
        key: of the pictures' names, if it was asked for.
        credits: columns of licences and authors.
        names: of the classes by id, from the features of ``datasets``.
    """

    image: str
    label: str | None
    split: str | None
    key: str | None
    credits: tuple[str, ...]
    names: tuple[str, ...] | None


def layout_of(schema: pa.Schema, columns: Columns, shown: str) -> Layout | None:
    """Return a file's layout; None if it holds no pictures.

    Raises:
        SourceError: a column is missing, or several could be meant.
    """
    images = [field.name for field in schema if parquet_images.holds_images(field.type)]
    lists = [field.name for field in schema if parquet_images.holds_lists(field.type)]
    if columns.image in lists or (lists and not images):
        name = columns.image if columns.image in lists else lists[0]
        raise SourceError(
            f"{shown}: column {name!r} holds lists of pictures, and a content is one picture; "
            "write a row for each of them"
        )
    if not images:
        return None
    image = _image_column(images, columns.image, shown)
    for option, name in (("label", columns.label), ("key", columns.key)):
        if name and name not in schema.names:
            raise SourceError(
                f"{shown}: has no column {name!r} (--{option}-column); its columns: "
                f"{columns_in_words(schema.names)}"
            )
    features = features_of(schema)
    label = columns.label or _label_column(schema, features, shown)
    if label and not _is_plain(schema.field(label).type):
        raise SourceError(f"{shown}: column {label!r} holds neither names nor numbers of classes")
    key = columns.key or None
    if key and not _is_plain(schema.field(key).type):
        raise SourceError(f"{shown}: column {key!r} holds neither names nor numbers of pictures")
    has_splits = "split" in schema.names and _is_text(schema.field("split").type)
    return Layout(
        image,
        label,
        "split" if has_splits else None,
        key,
        tuple(n for n in CREDITS if n in schema.names and _is_text(schema.field(n).type)),
        class_names(features.get(label or "", {})),
    )


def _image_column(images: list[str], wanted: str, shown: str) -> str:
    if wanted:
        if wanted not in images:
            raise SourceError(
                f"{shown}: has no pictures in a column {wanted!r} (--image-column); columns with "
                f"pictures: {columns_in_words(images)}"
            )
        return wanted
    usual = [name for name in IMAGE_COLUMNS if name in images]
    if len(images) > 1 and not usual:
        raise SourceError(
            f"{shown}: several columns may hold pictures ({columns_in_words(images)}); "
            "choose one with --image-column"
        )
    return usual[0] if usual else images[0]


def _label_column(
    schema: pa.Schema, features: Mapping[str, Mapping[str, Any]], shown: str
) -> str | None:
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if "label" in classes or (not classes and "label" in schema.names):
        return "label" if _is_plain(schema.field("label").type) else None
    if len(classes) > 1:
        raise SourceError(
            f"{shown}: has several columns of classes ({columns_in_words(classes)}); "
            "choose one with --label-column"
        )
    return classes[0] if classes else None


def _is_plain(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(_is_text(kind) or types.is_integer(value) or types.is_floating(value))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_string(value) or types.is_large_string(value) or types.is_string_view(value)
    )
