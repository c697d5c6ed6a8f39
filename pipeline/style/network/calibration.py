"""Pictures painted by code, over which any set of weights is brought to the same scale.

They must excite a network's filters about as photographs do, or rare filters would be amplified.
Dead leaves (Lee, Mumford, Huang, "Occlusion models for natural images", 2001) have the edges, the
occlusions and the power spectrum of natural images; shading and 1/f texture add the rest.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PICTURES = 12
LEAVES = (40, 120, 400)
"""Leaves of a picture, in turn: from broad areas to crowds of small things."""

Array = npt.NDArray[np.float64]


def calibration_pictures(size: int = 128) -> Tensor:
    """Fixed pictures (12, 3, size, size), RGB in [0, 1]; the same anywhere up to rounding."""
    # NumPy, not torch: thousands of small operations, which torch's threads would slow down.
    rng = np.random.Generator(np.random.PCG64(1508_06576))
    painted = [dead_leaves(size, LEAVES[index % len(LEAVES)], rng) for index in range(PICTURES)]
    return torch.from_numpy(np.stack(painted)).float()


def dead_leaves(size: int, leaves: int, rng: np.random.Generator) -> Array:
    """Discs, boxes and strokes over one another, each with a colour, a shade and a texture."""
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    texture = power_noise(size, 0.8, rng)
    texture = 0.3 * texture + texture[:1]  # mostly grey
    # Few colours, and those near grey, as in most pictures.
    palette = rng.uniform(0.05, 0.95, (5, 1)) + 0.12 * rng.standard_normal((5, 3))
    picture = palette[0].reshape(3, 1, 1) + 0.03 * texture
    smallest, largest = 0.02, 0.8
    # Radii of density r^-3 make the picture alike at all scales; the large lie at the back.
    radii = (smallest**-2 + rng.random(leaves) * (largest**-2 - smallest**-2)) ** -0.5
    for radius in sorted(radii, reverse=True):
        cx, cy = rng.uniform(-0.1, 1.1, 2)
        angle, kind = rng.uniform(0, math.pi), rng.integers(3)
        color = palette[rng.integers(5)] + rng.uniform(-0.08, 0.08)
        grain, shade = 0.12 * rng.random() ** 3, rng.uniform(-0.4, 0.4)
        along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        if kind == 0:
            inside = along**2 + across**2 < radius**2
        else:
            inside = (abs(along) < radius) & (abs(across) < radius * (1.0 if kind == 1 else 0.15))
        leaf = color[:, None] + shade * along[inside] + grain * texture[:, inside]
        picture[:, inside] = leaf
    light = 1 + 0.2 * power_noise(size, 2.0, rng)[:1].clip(-2, 2)
    lit: Array = (picture * light).clip(0, 1)
    return lit


def power_noise(size: int, exponent: float, rng: np.random.Generator) -> Array:
    """Three fields (3, size, size) of amplitude spectrum 1/f^exponent, unit deviation."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    frequency = np.maximum(np.hypot(fy, fx), 1 / size)
    white = rng.standard_normal((3, size, size))
    field = np.fft.irfft2(np.fft.rfft2(white) / frequency**exponent, s=(size, size))
    unit: Array = field / field.std(axis=(1, 2), keepdims=True)
    return unit
