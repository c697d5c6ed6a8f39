"""Synthetic pictures used to bring any set of weights to the same scale.

They must excite a network's filters about as much as photographs do; otherwise rarely active
filters would be amplified. Dead leaves (Lee, Mumford, Huang, "Occlusion models for natural images",
2001) have the edges, occlusions and power spectrum of natural images. Shading and 1/f texture are
added on top.
"""

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PICTURES = 12
"""Number of calibration pictures."""

LEAVES = (40, 120, 400)
"""Leaves per picture, used in turn: from broad areas to crowds of small objects."""

Array = npt.NDArray[np.float64]


@functools.cache
def calibration_pictures(size: int = 128) -> Tensor:
    """Return the calibration pictures (12, 3, size, size), RGB in [0, 1].

    They are the same on every machine, up to rounding, and made once in a process.
    """
    # NumPy, not torch: torch's threads would slow down thousands of small operations.
    rng = np.random.Generator(np.random.PCG64(1508_06576))
    painted = [dead_leaves(size, LEAVES[index % len(LEAVES)], rng) for index in range(PICTURES)]
    return torch.from_numpy(np.stack(painted)).float()


def dead_leaves(size: int, leaves: int, rng: np.random.Generator) -> Array:
    """Paint overlapping discs, boxes and strokes, each with its own colour, shading and texture.

    Returns:
        A picture (3, size, size), RGB in [0, 1].
    """
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    texture = power_noise(size, 0.8, rng)
    texture = 0.3 * texture + texture[:1]  # mostly grey
    # A few colours, most of them close to grey, as in most photographs.
    palette = rng.uniform(0.05, 0.95, (5, 1)) + 0.12 * rng.standard_normal((5, 3))
    picture = palette[0].reshape(3, 1, 1) + 0.03 * texture
    smallest, largest = 0.02, 0.8
    # Radii with density r^-3 make the picture scale-invariant. Large leaves go to the back.
    radii = (smallest**-2 + rng.random(leaves) * (largest**-2 - smallest**-2)) ** -0.5
    for radius in sorted(radii, reverse=True):
        cx, cy = rng.uniform(-0.1, 1.1, 2)
        angle, kind = rng.uniform(0, math.pi), rng.integers(3)
        color = palette[rng.integers(5)] + rng.uniform(-0.08, 0.08)
        grain, shade = 0.12 * rng.random() ** 3, rng.uniform(-0.4, 0.4)
        rows, columns = window(cy, radius, size), window(cx, radius, size)
        dy, dx = y[rows, columns] - cy, x[rows, columns] - cx
        along = dx * math.cos(angle) + dy * math.sin(angle)
        across = dy * math.cos(angle) - dx * math.sin(angle)
        if kind == 0:
            inside = along**2 + across**2 < radius**2
        else:
            inside = (abs(along) < radius) & (abs(across) < radius * (1.0 if kind == 1 else 0.15))
        leaf = color[:, None] + shade * along[inside]
        leaf += grain * texture[:, rows, columns][:, inside]
        picture[:, rows, columns][:, inside] = leaf
    light = 1 + 0.2 * power_noise(size, 2.0, rng)[:1].clip(-2, 2)
    lit: Array = (picture * light).clip(0, 1)
    return lit


def window(center: float, radius: float, size: int) -> slice:
    """Return the rows or columns that a leaf may cover, however it is turned."""
    reach = radius * math.sqrt(2)
    first, last = math.floor((center - reach) * size), math.ceil((center + reach) * size)
    return slice(max(first, 0), max(last + 1, 0))


def power_noise(size: int, exponent: float, rng: np.random.Generator) -> Array:
    """Draw noise (3, size, size) with amplitude spectrum 1/f^exponent and unit deviation."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.maximum(np.hypot(fy, fx), 1 / size)
    white = rng.standard_normal((3, size, size))
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency**exponent, s=(size, size))
    unit: Array = field / field.std(axis=(1, 2), keepdims=True)
    return unit
