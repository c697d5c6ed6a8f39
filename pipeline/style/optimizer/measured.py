"""A fixed metric to begin with, between what other pairs learnt and the spectrum of images.

Four pairs, none of them the demo's, learnt their metric in 50 evaluations at 256 px with the
``compact`` weights. ``LOGARITHMS`` is three quarters of the mean of the metrics' matrix logarithms,
by frequency, and a quarter of the logarithm of 1/f^1.5. Low frequencies and the finest ones move
far, those between move little. What pairs learn moves low frequencies less, which keeps more of the
photograph's large light and dark areas.
"""

import torch
from torch import Tensor

from pipeline.style.optimizer.precondition import Metric, Preconditioner, scaled

LOGARITHMS = (
    (-8.0, (1.82, 0.68, 0.24, 1.58, 0.61, 1.79)),
    (-7.0, (1.37, 0.70, 0.33, 1.15, 0.73, 1.41)),
    (-6.0, (0.51, 0.58, 0.21, 0.22, 0.61, 0.46)),
    (-5.0, (-0.15, 0.57, 0.14, -0.52, 0.52, -0.39)),
    (-4.0, (-0.78, 0.38, 0.07, -1.14, 0.39, -1.14)),
    (-3.0, (-1.13, 0.08, -0.18, -1.78, 0.31, -1.87)),
    (-2.0, (-0.89, -0.17, -0.33, -1.58, 0.20, -1.75)),
    (-1.5, (-0.41, -0.25, -0.41, -1.11, 0.14, -1.26)),
    (-1.0, (0.60, -0.26, -0.43, 0.01, 0.14, -0.12)),
    (-0.5, (1.06, -0.27, -0.42, 0.56, 0.11, 0.50)),
)
"""Log R by the binary logarithm of the frequency in cycles a pixel: its upper triangle over RGB
(rr, rg, rb, gg, gb, bb)."""


def measured_metric(P: Preconditioner) -> Metric:
    """Return the metric for images of P's size, interpolated between the frequencies."""
    octaves = torch.tensor([octave for octave, _ in LOGARITHMS], dtype=torch.float64)
    known = torch.tensor([values for _, values in LOGARITHMS], dtype=torch.float64)
    rings = torch.arange(1, P.rings.shape[1] + 1, dtype=torch.float64)
    asked = (rings / max(P.size)).log2().clamp(octaves[0], octaves[-1])
    above = torch.searchsorted(octaves, asked).clamp_min(1)
    below = above - 1
    part = (asked - octaves[below]) / (octaves[above] - octaves[below])
    upper = torch.lerp(known[below], known[above], part[:, None])
    logs: Tensor = upper[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].view(-1, 3, 3)
    found = scaled(torch.linalg.matrix_exp(logs)).to(P.rings)
    return Metric(found, torch.ones_like(P.root[0]))
