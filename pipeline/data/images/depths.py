"""Convert deep, signed and floating-point samples to 8 bits.

The question is which values are black and white. For integers it is the range of their type, for
floats the usual range that fits their values.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AT_ONCE = 2**20
"""Pixels converted to float64 at a time; a whole picture would take gigabytes."""

LEAST_FILLED = 1 / 8
"""Smallest part of their type's range that signed and 32-bit samples must fill to be scaled by it.

Measurements fill less of it; they are scaled by their own extremes."""

Part = npt.NDArray[Any]
"""Some rows of samples: (rows, width) or (rows, width, channels)."""


@dataclass(frozen=True)
class Samples:
    """The samples of an image.

    Attributes:
        rows: returns the rows from ``top`` to ``bottom``, (bottom - top, width) or (..., width, n).
        width: in pixels.
        height: in pixels.
        kind: numpy's letter: ``u``, ``i`` or ``f``.
        bits: of a sample.
        white_is_zero: whether small values are bright.
        told: black and white, if the file states them.
    """

    rows: Callable[[int, int], Part]
    width: int
    height: int
    kind: str
    bits: int
    white_is_zero: bool = False
    told: tuple[float, float] | None = None


def to_8_bit(samples: Samples, curve: npt.NDArray[np.float64] | None = None) -> Part:
    """Convert samples to uint8.

    Args:
        samples: (height, width) or (height, width, n) in all.
        curve: (256,), the values that replace 0 to 255, with linear interpolation.

    Returns:
        uint8 of the same shape.
    """
    low, high = samples.told or _range(samples)
    scale = 255 / (high - low) if high > low else 0.0
    parts = []
    for part in _parts(samples):
        with np.errstate(all="ignore"):  # infinite and missing values
            scaled = ((part.astype(np.float64) - low) * scale).clip(0, 255)
        scaled = np.nan_to_num(255 - scaled if samples.white_is_zero else scaled)
        if curve is not None:
            scaled = np.interp(scaled, np.arange(256), curve)
        parts.append(scaled.round().astype(np.uint8))
    return np.concatenate(parts)


def _range(samples: Samples) -> tuple[float, float]:
    """Return the values of black and white."""
    if samples.kind == "u" and samples.bits <= 16:
        return 0.0, 2.0**samples.bits - 1
    least, most = _extremes(samples)
    if samples.kind == "f":
        return _range_of_floats(least, most)
    whole = 2.0**samples.bits
    low, high = (0.0, whole - 1) if samples.kind == "u" else (-whole / 2, whole / 2 - 1)
    low = 0.0 if least >= 0 else low  # no negative values: use the upper half only
    if most - least >= (high - low) * LEAST_FILLED:
        return low, high
    usual = (255.0, 65535.0) if samples.bits == 32 else (255.0,)
    bound = next((bound for bound in usual if least >= 0 and most <= bound), None)
    return (least, most) if bound is None else (0.0, bound)


def _range_of_floats(least: float, most: float) -> tuple[float, float]:
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    # Values such as 0.9 to 1.7 do not have the range 0 to 255.
    return (0.0, 255.0) if least >= 0 and 16 < most <= 255 else (least, most)


def _extremes(samples: Samples) -> tuple[float, float]:
    """Return the least and the largest finite value; 0 and 0 if there is none."""
    least, most = np.inf, -np.inf
    for part in _parts(samples):
        finite = part[np.isfinite(part)] if samples.kind == "f" else part
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    return (least, most) if least <= most else (0.0, 0.0)


def _parts(samples: Samples) -> Iterator[Part]:
    count = max(1, AT_ONCE // samples.width)
    for top in range(0, samples.height, count):
        yield samples.rows(top, min(top + count, samples.height))
