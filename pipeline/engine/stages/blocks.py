"""The blocks of rows that travel between the stages, as Arrow tables.

Images are raw pixels in binary columns, since their shapes differ from row to row.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.data.images.sizing import Pixels
from pipeline.data.schemas import RECORD_SCHEMA

IMAGE = pa.struct([("pixels", pa.large_binary()), ("height", pa.int32()), ("width", pa.int32())])
"""Type of a column of images."""

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
    return {"pixels": pixels.tobytes(), "height": pixels.shape[0], "width": pixels.shape[1]}


def pixels_of(value: dict[str, Any]) -> Pixels:
    """Return the (H, W, 3) uint8 pixels of a value of an ``IMAGE`` column, read-only."""
    shape = (value["height"], value["width"], 3)
    return np.frombuffer(value["pixels"], dtype=np.uint8).reshape(shape)
