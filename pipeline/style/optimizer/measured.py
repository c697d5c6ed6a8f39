"""A fixed metric to begin with: the mean of what other pairs learnt.

Four pairs, none of them the demo's, learnt their metric in 50 evaluations at 256 px with the
``compact`` weights. ``LOGARITHMS`` is the mean of the metrics' matrix logarithms, by frequency.
Low frequencies and the finest ones move far, those between move little.
"""

import torch
from torch import Tensor

from pipeline.style.optimizer.precondition import Metric, Preconditioner, scaled

LOGARITHMS = (
    (-8.0, (-0.35, 0.90, 0.32, -0.67, 0.81, -0.39)),
    (-7.0, (-0.60, 0.93, 0.44, -0.89, 0.98, -0.55)),
    (-6.0, (-1.40, 0.77, 0.28, -1.78, 0.82, -1.46)),
    (-5.0, (-1.93, 0.76, 0.19, -2.43, 0.69, -2.25)),
    (-4.0, (-2.42, 0.50, 0.09, -2.90, 0.52, -2.90)),
    (-3.0, (-2.54, 0.10, -0.24, -3.41, 0.41, -3.53)),
    (-2.0, (-1.88, -0.22, -0.44, -2.80, 0.27, -3.03)),
    (-1.5, (-1.06, -0.33, -0.55, -2.00, 0.19, -2.20)),
    (-1.0, (0.46, -0.35, -0.58, -0.33, 0.18, -0.51)),
    (-0.5, (1.24, -0.36, -0.56, 0.58, 0.14, 0.49)),
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
