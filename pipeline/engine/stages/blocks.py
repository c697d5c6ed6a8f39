"""The blocks of rows that travel between the stages, as Arrow tables.

Images are raw pixels in binary columns, since their shapes differ from row to row. An image that
several rows share, as a style image is, lies in a block once.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.images.sizing import Pixels
from pipeline.data.schemas import RECORD_SCHEMA

PIXELS = pa.dictionary(pa.int32(), pa.large_binary())

IMAGE = pa.struct([("pixels", PIXELS), ("height", pa.int32()), ("width", pa.int32())])
"""Type of a column of images."""

SIDES = ("height", "width")

LOADED = [
    ("__content_image", IMAGE),
    ("__style_images", pa.list_(IMAGE)),
    ("__style_keys", pa.list_(pa.string())),  # a digest of each style image's pixels
    ("warnings", pa.list_(pa.string())),  # what is wrong with the image files, in words
    ("load_seconds", pa.float64()),
]
"""Columns that the load stage adds to those of the plan."""

OPTIMIZED = (
    "total_loss",
    "content_loss",
    "style_loss",
    "tv_loss",
    "layer_losses",
    "content_image_losses",
    "alpha",
    "layer_weights",
    "loss_history",
    "steps",
    "evaluations",
    "stop_reason",
    "optimize_seconds",
    "batch_size",
    "device",
    "node",
)
"""Columns of a record that the style actor fills."""

STYLIZED = [
    ("__stylized_image", IMAGE),
    ("warnings", pa.list_(pa.string())),
    ("load_seconds", pa.float64()),
    *(RECORD_SCHEMA.field(name) for name in OPTIMIZED),
]
"""Columns that the style actor adds to those of the plan. The loaded images end there."""


def image_value(pixels: Pixels) -> dict[str, Any]:
    """Return (H, W, 3) uint8 pixels as a value of an ``IMAGE`` column."""
    in_order = np.ascontiguousarray(pixels)
    return {"pixels": in_order.data, "height": pixels.shape[0], "width": pixels.shape[1]}


def pixels_of(value: dict[str, Any]) -> Pixels:
    """Return the (H, W, 3) uint8 pixels of a value of an ``IMAGE`` column, read-only."""
    shape = (value["height"], value["width"], 3)
    return np.frombuffer(value["pixels"], dtype=np.uint8).reshape(shape)


def rows_of(table: pa.Table, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of a block as dictionaries. Pixels are not copied: they lie in the table.

    Args:
        table: any block.
        without: columns that the rows do not need.
    """
    images = [name for name in table.column_names if _holds_images(table.schema.field(name).type)]
    rows: list[dict[str, Any]] = table.drop_columns([*images, *without]).to_pylist()
    for name in images:
        values = (value for chunk in table[name].chunks for value in _views(chunk))
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def _holds_images(kind: pa.DataType) -> bool:
    return bool(kind == IMAGE or (pa.types.is_list(kind) and kind.value_type == IMAGE))


def _views(array: pa.Array) -> list[Any]:
    """Return the values of an array of images, or of lists of images."""
    valid = array.is_valid().to_pylist()
    if pa.types.is_list(array.type):
        images, places = _views(array.values), itertools.pairwise(array.offsets.to_pylist())
        lists = zip(valid, places, strict=True)
        return [images[start:end] if there else None for there, (start, end) in lists]
    pixels, heights, widths = array.flatten()
    different = pixels.dictionary
    _, offsets, data = different.buffers()  # its scalars would copy
    places = np.frombuffer(offsets, np.int64, len(different) + 1, 8 * different.offset).tolist()
    views = [memoryview(data)[start:end] for start, end in itertools.pairwise(places)]
    values = zip(pixels.indices.to_pylist(), heights.to_pylist(), widths.to_pylist(), strict=True)
    return [
        {"pixels": views[index], "height": height, "width": width} if there else None
        for there, (index, height, width) in zip(valid, values, strict=True)
    ]


def with_columns(
    table: pa.Table, rows: Sequence[Mapping[str, Any]], names: Collection[str], schema: pa.Schema
) -> pa.Table:
    """Return a block with the columns of ``schema``, some of them from ``rows``.

    Args:
        table: has all other columns. They are not taken apart.
        rows: as many rows, in the same order.
        names: columns that the rows have; null where they lack them.
        schema: names and types of the result's columns.
    """
    columns = [
        _array([row.get(field.name) for row in rows], field.type)
        if field.name in names
        else _of_type(table[field.name], field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _of_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return values as an array of a type."""
    if kind == IMAGE:
        return _images(values)
    if not _holds_images(kind):
        return pa.array(values, kind)
    offsets = [0, *itertools.accumulate(len(value or ()) for value in values)]
    images = _images([image for value in values for image in value or ()])
    starts = [None if value is None else at for value, at in zip(values, offsets, strict=False)]
    return pa.ListArray.from_arrays(pa.array([*starts, offsets[-1]], pa.int32()), images, kind)


def _images(values: list[Any]) -> pa.StructArray:
    """Return an ``IMAGE`` array. It copies pixels once, which Arrow's own builders do not.

    A value that is there several times is kept once.
    """
    different = {id(value): value for value in values if value is not None}
    places = {name: place for place, name in enumerate(different)}
    views = [np.frombuffer(value["pixels"], np.uint8) for value in different.values()]
    offsets = np.array([0, *itertools.accumulate(map(len, views))], np.int64)
    data = pa.allocate_buffer(int(offsets[-1]))
    if views:
        np.concatenate(views, out=np.frombuffer(data, np.uint8))
    buffers = [None, pa.py_buffer(offsets), data]
    dictionary = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(views), buffers)
    indices = pa.array([places.get(id(value)) for value in values], pa.int32())
    pixels = pa.DictionaryArray.from_arrays(indices, dictionary)
    found = [value or {} for value in values]
    sides = (pa.array([each.get(side) for each in found], pa.int32()) for side in SIDES)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays([pixels, *sides], fields=list(IMAGE), mask=missing)
