"""The pictures that the compact network is fitted to: bundled, painted by code, and the user's own.

A seed determines the painted pictures and the crops.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jobs._brush import Picture, paint
from pipeline.style import recipe
from pipeline.style.network.calibration import Array, dead_leaves, power_noise

BUNDLED = (
    *("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"),
    *("hubble_deep_field.jpg", "ihc.png", "retina.jpg", "cell.png", "moon.png", "camera.png"),
    *("brick.png", "grass.png", "gravel.png", "coins.png", "page.png", "text.png"),
)
"""scikit-image's pictures that show something at 96 pixels or more."""

PAINTED_SIZE = 320
"""Edge of the painted pictures in pixels."""

KEPT = 512
"""Longest shorter edge of a picture in pixels; larger pictures are reduced to it."""

SMALLEST = 100
"""Shortest shorter edge of a picture in pixels; smaller pictures are left out."""


def bundled_pictures() -> list[Picture]:
    """Return the pictures in scikit-image's package (the ``demo`` extra)."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [read_picture(folder / name) for name in BUNDLED]


def folder_pictures(folders: Iterable[Path], held_out: Iterable[str]) -> list[Picture]:
    """Return the .jpg, .png and .webp files of folders in the order of their names.

    Args:
        folders: searched at any depth.
        held_out: names of files not to use.

    Raises:
        ValueError: no folder has a file of a held-out name.
    """
    paths = [
        path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    ]
    held_out = set(held_out)
    missing = held_out - {path.name for path in paths}
    if missing:
        raise ValueError(f"--hold-out {min(missing)}: no such file in the folders of --pictures")
    pictures = [read_picture(path) for path in paths if path.name not in held_out]
    return [picture for picture in pictures if min(picture.shape[:2]) >= SMALLEST]


def read_picture(path: Path) -> Picture:
    """Read a file as RGB, its shorter edge reduced to ``KEPT`` pixels."""
    with Image.open(path) as image:
        return np.asarray(_reduced(image.convert("RGB"), KEPT))


def collages(count: int, seed: int, stamps: Path, grounds: Sequence[Picture]) -> list[Picture]:
    """Paste cut-out things on photographs.

    Args:
        count: pictures to make.
        seed: determines them.
        stamps: folder with .png files of things, with transparency, at any depth. Drawings, in
            folders called ``cartoon`` or ``symbols``, are left out.
        grounds: the photographs.
    """
    paths = [
        path
        for path in sorted(stamps.rglob("*.png"))
        if not {"cartoon", "symbols"} & set(path.parts)
    ]
    rng = np.random.default_rng((seed, 1))
    pictures = []
    for _ in range(count):
        ground = Image.fromarray(grounds[int(rng.integers(len(grounds)))])
        canvas = ImageOps.fit(ground, (KEPT, KEPT))
        for _ in range(int(rng.integers(3, 12))):
            with Image.open(paths[int(rng.integers(len(paths)))]) as image:
                thing = image.convert("RGBA")
            thing.thumbnail((int(np.exp(rng.uniform(np.log(80), np.log(KEPT)))),) * 2)
            if rng.random() < 0.5:
                thing = ImageOps.mirror(thing)
            place = (rng.uniform(-0.1, 0.8, 2) * KEPT).astype(int).tolist()
            canvas.paste(thing, (place[0], place[1]), thing)
        pictures.append(np.asarray(canvas))
    return pictures


def _reduced(image: Image.Image, edge: int) -> Image.Image:
    """Return the image, made smaller if its shorter edge is longer than ``edge``."""
    share = edge / min(image.size)
    if share >= 1:
        return image
    W, H = (max(edge, round(side * share)) for side in image.size)
    return image.resize((W, H), Image.Resampling.LANCZOS)


def painted_pictures(count: int, seed: int, sources: Sequence[Picture]) -> list[Picture]:
    """Paint ``count`` pictures: half with brush strokes, others leaves, gradients, stripes, noise.

    Every other picture with brush strokes paints one of ``sources``.
    """
    rng = np.random.default_rng(seed)
    others = (leaves, gradient, stripes, noise)
    pictures = []
    for index in range(count):
        if index % 2:
            pictures.append(others[index // 2 % len(others)](rng))
        elif index % 4:
            pictures.append(strokes(rng, None))
        else:
            pictures.append(strokes(rng, sources[index // 4 % len(sources)]))
    return pictures


def strokes(rng: np.random.Generator, source: Picture | None) -> Picture:
    """Paint brush strokes along a smooth random flow.

    Their colours are those of ``source``; without one they come in patches of a few colours.
    """
    size = PAINTED_SIZE
    angle = float(rng.uniform(0.5, 3)) * _field(size, 3.0, rng)
    if source is None:
        palette = _palette(rng, int(rng.integers(3, 9)))
        patch = _field(size, 1.6, rng) + 0.35 * _field(size, 0.0, rng)
        index = np.clip((patch + 1.5) / 3 * len(palette), 0, len(palette) - 1).astype(int)
        ground = palette[index]
    else:
        ground = np.asarray(Image.fromarray(source).resize((size, size))).astype(np.float64)
    thick, contrast = float(rng.uniform(4, 20)), float(rng.uniform(4, 40))
    # ``paint`` rounds colours. When compact.safetensors was made, they were cut off.
    ground -= 0.5
    return paint(ground, angle, rng, thick=thick, contrast=contrast, lengths=(2, 9), cover=1.2)


def leaves(rng: np.random.Generator) -> Picture:
    """Paint dead leaves, as in the calibration pictures, with other numbers of leaves."""
    return _bytes(dead_leaves(PAINTED_SIZE, int(rng.integers(30, 400)), rng))


def gradient(rng: np.random.Generator) -> Picture:
    """Paint a slow change from colour to colour, with a little grain."""
    share = _sigmoid(_field(PAINTED_SIZE, 3.0, rng))
    grain = rng.uniform(0, 0.05) * power_noise(PAINTED_SIZE, 0.5, rng)
    return _bytes(_between_two_colors(share, rng) + grain)


def stripes(rng: np.random.Generator) -> Picture:
    """Paint waves of one period, straight or bent, soft or hard."""
    y, x = np.indices((PAINTED_SIZE, PAINTED_SIZE))
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(3), np.log(60)))
    phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
    bend = rng.uniform(0, 2) * _field(PAINTED_SIZE, 2.0, rng)
    wave = np.sin(phase + bend) * np.exp(rng.uniform(0, 3))
    return _bytes(_between_two_colors(_sigmoid(wave), rng))


def noise(rng: np.random.Generator) -> Picture:
    """Paint coloured noise, from clouds to grain: amplitude spectrum 1/f^p, p from 0.3 to 2."""
    field = power_noise(PAINTED_SIZE, rng.uniform(0.3, 2), rng)
    mixing = 0.12 * rng.standard_normal((3, 3))
    return _bytes(rng.uniform(0.2, 0.8, (3, 1, 1)) + np.einsum("ij,jhw->ihw", mixing, field))


def crops(pool: Sequence[Picture], count: int, size: int, seed: Sequence[int]) -> Tensor:
    """Draw crops (count, 3, size, size), RGB in [0, 1].

    Some are rotated, mirrored, recoloured or noisy; they have any scale.
    """
    rng = np.random.default_rng(seed)
    return torch.stack([_crop(pool[int(rng.integers(len(pool)))], size, rng) for _ in range(count)])


def _crop(picture: Picture, size: int, rng: np.random.Generator) -> Tensor:
    H, W = picture.shape[:2]
    # From 3/4 of a pixel of the picture per pixel to the whole picture, every scale as likely.
    side = int(min(H, W, np.exp(rng.uniform(np.log(0.75 * size), np.log(max(size, min(H, W)))))))
    top, left = rng.integers(H - side + 1), rng.integers(W - side + 1)
    cut = Image.fromarray(picture[top : top + side, left : left + side])
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC))
    crop = recipe.to_tensor(pixels)
    if rng.random() < 0.5:
        crop = crop.flip(2)
    if rng.random() < 0.2:
        crop = crop.rot90(int(rng.integers(1, 4)), (1, 2))
    if rng.random() < 0.3:
        crop = crop[torch.from_numpy(rng.permutation(3))]
    if rng.random() < 0.5:  # light, contrast, cast
        gain, cast = rng.uniform(0.5, 1.5), rng.uniform(-0.12, 0.12, (3, 1, 1))
        crop = (crop - crop.mean()) * gain + crop.mean() + torch.from_numpy(cast).float()
    if rng.random() < 0.3:  # as in an image that is being optimised
        grain = rng.uniform(0, 0.15) * power_noise(size, rng.uniform(0, 1), rng)
        crop = crop + torch.from_numpy(grain).float()
    return crop.clamp(0, 1)


def _field(size: int, exponent: float, rng: np.random.Generator) -> Array:
    """Draw a smooth random field (size, size) of unit deviation."""
    field: Array = power_noise(size, exponent, rng)[0]
    return field


def _sigmoid(x: Array) -> Array:
    y: Array = 1 / (1 + np.exp(-x))
    return y


def _between_two_colors(share: Array, rng: np.random.Generator) -> Array:
    """Turn shares (H, W) in [0, 1] into mixtures (3, H, W) of two random colours."""
    low, high = _palette(rng, 2).reshape(2, 3, 1, 1) / 255
    blended: Array = low + (high - low) * share
    return blended


def _palette(rng: np.random.Generator, colors: int) -> Array:
    """Draw colours (colors, 3) in [0, 255], alike in hue and different in light, as in pictures."""
    light = rng.uniform(20, 80) * rng.standard_normal((colors, 1))
    hue = rng.uniform(10, 60) * rng.standard_normal((colors, 3))
    found = np.clip(rng.uniform(40, 215, 3) + light + hue, 5, 250)
    order: Array = found[np.argsort(found.sum(axis=1))]
    return order


def _bytes(picture: Array) -> Picture:
    """Turn (3, H, W) in [0, 1] into (H, W, 3)."""
    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.ascontiguousarray(pixels)
