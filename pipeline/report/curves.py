"""Loss curves: those of single pairs, packed for the page, and what all of them have in common."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

POINTS = 80
"""Most points of a loss curve on the page."""

Floats = npt.NDArray[np.float64]


def points_of(count: int) -> npt.NDArray[np.int64]:
    """Return which of ``count`` evaluations are drawn: at most ``POINTS``, dense at the start."""
    if count <= POINTS:
        return np.arange(count)
    steps = np.linspace(0, 1, POINTS) ** 2
    return np.floor(steps * (count - 1) + 0.5).astype(np.int64)


def read_history(losses: pa.ListScalar) -> Floats:
    """Return the loss after each evaluation; nothing where a logarithmic scale cannot show it."""
    if not losses.is_valid:
        return np.empty(0)
    values: Floats = losses.values.to_numpy(zero_copy_only=False).astype(np.float64)
    return values if len(values) and np.isfinite(values).all() and values.min() > 0 else values[:0]


def packed(history: Floats) -> dict[str, Any]:
    """Pack a curve into a hundred characters: logarithms in 255 steps from lowest to highest."""
    if not len(history):
        return {"curve": None, "range": None}
    logs = np.log10(history)
    low, high = float(logs.min()), float(logs.max())
    steps = (logs[points_of(len(logs))] - low) / (high - low or 1) * 255
    text = base64.b64encode(np.round(steps).astype(np.uint8).tobytes()).decode()
    return {"curve": text, "range": [round(low, 4), round(high, 4)]}


def drawn_shares(history: Floats, points: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return a curve at ``points``, as shares of its first loss.

    A pair that stopped early keeps its last loss, so that every pair counts at every evaluation.
    """
    drawn: Floats = history[np.minimum(points, len(history) - 1)]
    return np.asarray(drawn / history[0], np.float32)


def aggregate(
    curves: Sequence[npt.NDArray[np.float32]], points: npt.NDArray[np.int64]
) -> dict[str, Any] | None:
    """Return the median of all curves and the band of their middle 80%; None without curves."""
    if not curves:
        return None
    low, median, high = np.quantile(np.array(curves), [0.1, 0.5, 0.9], axis=0)
    lines = {"low": low, "median": median, "high": high}
    shown: dict[str, Any] = {
        name: [short(value) for value in line.tolist()] for name, line in lines.items()
    }
    return {"evaluations": (points + 1).tolist(), "pairs": len(curves), **shown}


def short(value: float | None) -> float | None:
    """Round to four digits, to keep JSON of millions of numbers small; None if not finite."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")
