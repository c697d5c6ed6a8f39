"""Paintings by code: brush strokes of given colours along given directions.

After Hertzmann, "Painterly Rendering with Curved Brush Strokes of Multiple Sizes", SIGGRAPH 1998.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
"""(H, W, 3), RGB."""


def paint(
    ground: Array, angle: Array, rng: np.random.Generator, thick: float, contrast: float
) -> Picture:
    """Strokes from coarse to fine.

    Args:
        ground: (H, W, 3) in [0, 255], the colour of a stroke that starts there.
        angle: (H, W), radians, the way a stroke goes there.
        thick: width of the coarsest strokes, px.
        contrast: deviation of the strokes' colours from the ground's, grey levels.
    """
    H, W = ground.shape[:2]
    canvas = Image.new("RGB", (W, H), _color(ground.mean(axis=(0, 1))))
    draw = ImageDraw.Draw(canvas)
    for width in (thick, thick / 2, thick / 4):
        length = width * float(rng.uniform(5, 9))
        for x, y in rng.random((int(1.5 * H * W / (width * length)), 2)) * (W, H):
            color = ground[int(y), int(x)] + contrast * rng.standard_normal()
            points = stroke(angle, x, y, length)
            draw.line(points, fill=_color(color), width=max(1, round(width)), joint="curve")
    return np.asarray(canvas)


def stroke(angle: Array, x: float, y: float, length: float) -> list[tuple[float, float]]:
    """The bends (x, y) of a stroke from a point along ``angle`` (H, W), six parts of ``length``."""
    H, W = angle.shape
    points = [(x, y)]
    for _ in range(6):
        turn = angle[int(y) % H, int(x) % W]
        x, y = x + length / 6 * np.cos(turn), y + length / 6 * np.sin(turn)
        points.append((x, y))
    return points


def _color(values: Array) -> tuple[int, int, int]:
    red, green, blue = values.round().clip(0, 255).astype(int).tolist()
    return red, green, blue
