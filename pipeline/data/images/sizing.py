"""The pixels of an image as an array: which sizes an image may have, and how it gets there."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.errors import RowError

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), RGB, 0 to 255."""

SMALLEST = 16
"""Shortest edge of an input image in pixels: at 16 px VGG-19's fifth block has one position."""

MULTIPLE = 16
"""Sides are rounded to a multiple of so many pixels: VGG-19 halves them four times, and images of
equal shape can share a batch."""

LEAST_SIDE = 32
"""Shortest side of an optimised image in pixels."""

REDUCED = "reduced by the decoder"
"""Key of a ``Reduced`` in the ``info`` of an image."""


@dataclass(frozen=True)
class Reduced:
    """What an image is of that was decoded at a half, a quarter or an eighth of its size.

    Attributes:
        size: width and height of the whole picture in pixels.
        box: left, top, right and bottom of it in the pixels of the image. Where a side is no
            multiple, the image's last pixels reach beyond it.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]


def whole_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height of the picture in an image's file, in pixels."""
    reduced: Reduced | None = image.info.get(REDUCED)
    return reduced.size if reduced else image.size


MOST_DISTORTION = 5 / 3
"""Largest change of the proportions by rounding: 40 x 24 px become 32 x 32 px."""


def fit_size(
    width: int, height: int, image_size: float, image_edge: str, max_pixels: int
) -> tuple[int, int]:
    """Return the width and height in pixels of an image scaled to ``image_size``.

    The aspect ratio is kept, but for rounding: both sides become multiples of ``MULTIPLE``, and at
    least ``LEAST_SIDE``.

    Args:
        width: of the image, px.
        height: of the image, px.
        image_size: wanted length of one edge, px.
        image_edge: which edge that is, ``long`` or ``short``.
        max_pixels: most pixels (width x height) of the result.

    Raises:
        RowError: ``image_too_large``, if a narrow image would get more than ``max_pixels``;
            ``image_too_small``, if its short edge would be so far below ``LEAST_SIDE`` that the
            proportions would change by more than ``MOST_DISTORTION``.
    """
    edge = max(width, height) if image_edge == "long" else min(width, height)
    scale = image_size / edge
    rounded = [
        max(LEAST_SIDE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (width, height)
    ]
    if rounded[0] * rounded[1] > max_pixels:
        raise RowError(
            "image_too_large",
            f"{width} x {height} px with {image_size:g} px on the {image_edge} edge would be "
            f"{rounded[0]} x {rounded[1]} px, more than max_pixels = {max_pixels}",
        )
    if max(width, height) * min(rounded) > MOST_DISTORTION * min(width, height) * max(rounded):
        raise RowError(
            "image_too_small",
            f"{width} x {height} px with {image_size:g} px on the {image_edge} edge would be "
            f"{rounded[0]} x {rounded[1]} px (no edge may be less than {LEAST_SIDE} px) and lose "
            "its proportions; crop it, or use a larger image_size or image_edge short",
        )
    return rounded[0], rounded[1]


def resize(image: Image.Image, size: tuple[int, int]) -> Pixels:
    """Resize an RGB image to (width, height) pixels with a Lanczos filter.

    A large reduction is done first by a box filter, to three times the size.

    Returns:
        (height, width, 3), RGB, 0 to 255.
    """
    reduced: Reduced | None = image.info.get(REDUCED)
    box = reduced.box if reduced else None
    resized = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(resized, dtype=np.uint8)
