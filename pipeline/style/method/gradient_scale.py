"""The scale of each pair's gradients on their way through a network in float16.

float16 holds magnitudes up to 65,504 and, with all its digits, down to 6e-5. Gradients are
multiplied by a power of 2, which costs no digits, and divided by it at the image. The factor
follows the size of the last gradient. In other types it stays 1.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST = 32.0
"""Target for the largest magnitude of the scaled image gradient.

The activations' gradients may be ten times as large or a thousand times smaller."""

BEGIN = 2.0**-8
"""Largest factor of a layer's style loss, scaled, before the first gradient is seen."""

CAP = 2.0**4
"""Upper limit of the content loss's factor, scaled, before the first gradient is seen.

It is no target: with the content image as start the content gradient begins at 0, and must not
push the style gradient below what float16 holds."""

TOO_LARGE = 2.0**-8
"""Factor applied to a pair's scale after an overflow, and once to its target."""

LIMITS = (2.0**-100, 2.0**100)
"""Smallest and largest scale."""


def first_scale(style_factors: Iterable[float], alpha: float) -> float:
    """Return the scale of a pair whose gradient has not been seen yet, a power of 2.

    Args:
        style_factors: beta w_l / (N_l^2 M_l) of each style layer.
        alpha: the content loss's weight, 0 if there is no content layer.
    """
    wanted = [LIMITS[1]]
    wanted += [BEGIN / factor if factor else LIMITS[1] for factor in style_factors]
    if alpha:
        wanted.append(CAP / alpha)
    return 2.0 ** math.floor(math.log2(max(LIMITS[0], min(wanted))))


class GradientScale:
    """The scales of B slots, on the device; nothing here waits for it.

    Args:
        like: a tensor (B,) that gives the slots, the device and the type.

    Attributes:
        factor: the scales (B,), powers of 2.
        target: the wanted largest magnitude of each slot's scaled image gradient (B,).
    """

    def __init__(self, like: Tensor) -> None:
        self.factor = torch.ones_like(like)
        self.target = torch.full_like(like, LARGEST)

    def follow(self, largest: Tensor) -> None:
        """Choose the next scales by the gradients that were found with these.

        Args:
            largest: the largest magnitude of each image gradient, without the scale (B,); not
                finite after an overflow.
        """
        fits = torch.isfinite(largest)
        self.target.mul_(torch.where(fits, 1, TOO_LARGE)).clamp_min_(LARGEST * TOO_LARGE)
        wanted = torch.exp2(torch.log2(self.target / largest).floor())
        # A gradient of zeros may have been too small for float16.
        wanted = torch.where(largest > 0, wanted, self.factor / TOO_LARGE)
        self.factor.copy_(torch.where(fits, wanted, self.factor * TOO_LARGE).clamp_(*LIMITS))
