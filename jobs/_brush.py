"""Paintings by code: brush strokes of given colours along given directions.

Source: Hertzmann, "Painterly Rendering with Curved Brush Strokes of Multiple Sizes", SIGGRAPH 1998.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
"""(H, W, 3), RGB."""


def paint(
    ground: Array,
    angle: Array,
    rng: np.random.Generator,
    *,
    thick: float,
    contrast: float,
    lengths: tuple[float, float] = (5, 9),
    cover: float = 1.5,
) -> Picture:
    """Paint strokes from coarse to fine.

    Args:
        ground: (H, W, 3) in [0, 255], the colour of a stroke that starts there.
        angle: (H, W), the direction of a stroke there in radians.
        rng: draws the strokes.
        thick: width of the coarsest strokes in pixels.
        contrast: standard deviation of a stroke's colour from the ground's, in levels of 256.
        lengths: shortest and longest strokes, in widths.
        cover: how often the strokes of one width cover the picture.
    """
    H, W = ground.shape[:2]
    canvas = Image.new("RGB", (W, H), _color(ground.mean(axis=(0, 1))))
    draw = ImageDraw.Draw(canvas)
    for width in (thick, thick / 2, thick / 4):
        length = width * float(rng.uniform(*lengths))
        for x, y in rng.random((int(cover * H * W / (width * length)), 2)) * (W, H):
            color = ground[int(y), int(x)] + contrast * rng.standard_normal()
            points = _stroke(angle, x, y, length)
            draw.line(points, fill=_color(color), width=max(1, round(width)), joint="curve")
    return np.asarray(canvas)


def _stroke(angle: Array, x: float, y: float, length: float) -> list[tuple[float, float]]:
    """Follow ``angle`` (H, W) from a point; return the ends (x, y) of the stroke's six parts."""
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
