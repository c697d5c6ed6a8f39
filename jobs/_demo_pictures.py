"""The demo's inputs: photographs from scikit-image's package, and three paintings made by code."""

from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from jobs._brush import Array, Picture, paint

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIZE = 384
"""Edge of the paintings in pixels."""


def photographs() -> dict[str, Path]:
    """Return the photographs' files by name, all of them public domain or CC0.

    They show NASA's astronaut and rocket, a cat and a cup of coffee.
    """
    folder = Path(skimage.__file__).parent / "data"
    return {Path(name).stem: folder / name for name in PHOTOGRAPHS}


def paintings() -> dict[str, Image.Image]:
    """Return the paintings by name: a night full of stars, a sunset in waves, a meadow in dabs."""
    painted = {"night": _night(), "sunset": _sunset(), "meadow": _meadow()}
    return {name: Image.fromarray(pixels) for name, pixels in painted.items()}


def _grid() -> tuple[Array, Array]:
    axis = np.arange(SIZE) / SIZE
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def _ramp(position: Array, colors: list[tuple[int, int, int]]) -> Array:
    """Return the colours (H, W, 3) at positions (H, W) in [0, 1] between the first and the last."""
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(position, stops, channel) for channel in zip(*colors, strict=True)]
    return np.stack(channels, axis=-1)


def _night() -> Picture:
    rng = np.random.default_rng(4)
    x, y = _grid()
    ground = _ramp(
        (0.5 + 0.5 * np.sin(9 * y + 4 * np.sin(5 * x))).clip(0, 1),
        [(12, 24, 70), (28, 66, 140), (70, 130, 190), (150, 190, 205)],
    )
    angle = 0.6 * np.sin(5 * x + 3 * y)
    stars = [(0.2, 0.2, 0.08), (0.75, 0.15, 0.12), (0.5, 0.42, 0.1), (0.12, 0.6, 0.06),
             (0.85, 0.55, 0.07), (0.38, 0.82, 0.06), (0.7, 0.85, 0.09)]  # fmt: skip
    for cx, cy, radius in stars:
        distance = np.hypot(x - cx, y - cy)
        around = np.arctan2(y - cy, x - cx) + np.pi / 2
        near = np.exp(-((distance / (2.4 * radius)) ** 2))
        angle = angle * (1 - near) + around * near
        glow = np.exp(-((distance / radius) ** 2))[..., None]
        ground = ground * (1 - glow) + np.array([250, 215, 90]) * glow
    return paint(ground, angle, rng, thick=11, contrast=16)


def _sunset() -> Picture:
    rng = np.random.default_rng(5)
    x, y = _grid()
    wave = y + 0.05 * np.sin(7 * x + 3 * y) + 0.03 * np.sin(15 * x)
    colors = [(214, 88, 36), (240, 150, 60), (190, 56, 40), (236, 178, 90), (70, 60, 82),
              (30, 48, 84), (44, 84, 104), (96, 60, 50), (24, 28, 44)]  # fmt: skip
    ground = _ramp(wave.clip(0, 1), colors)
    slope = 0.05 * 7 * np.cos(7 * x + 3 * y) + 0.03 * 15 * np.cos(15 * x)
    return paint(ground, -np.arctan(slope), rng, thick=13, contrast=22)


def _meadow() -> Picture:
    rng = np.random.default_rng(6)
    x, y = _grid()
    ground = _ramp(
        (0.5 + 0.3 * np.sin(6 * x - 4 * y) + 0.2 * np.sin(11 * y + 3 * x)).clip(0, 1),
        [(40, 84, 60), (96, 140, 70), (176, 190, 110), (232, 206, 170), (176, 130, 180)],
    )
    for color in ([214, 80, 110], [245, 240, 220], [110, 90, 190]):
        for cx, cy in rng.random((40, 2)):
            spot = np.exp(-((np.hypot(x - cx, y - cy) / 0.018) ** 2))[..., None]
            ground = ground * (1 - spot) + np.array(color) * spot
    angle = np.pi / 2 + 0.8 * np.sin(5 * x + 7 * y)
    return paint(ground, angle, rng, thick=8, contrast=20)


def save_inputs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write all pictures as PNG below ``folder``; return the contents' and the styles' files."""
    contents = {f"content/{name}": Image.open(path) for name, path in photographs().items()}
    styles = {f"style/{name}": image for name, image in paintings().items()}
    files: dict[str, list[Path]] = {"content": [], "style": []}
    for name, image in {**contents, **styles}.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(path)
        files[path.parent.name].append(path)
    return files["content"], files["style"]
