"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

P is a guess at the covariance of the change that is sought: the colour covariance of the style
image, times the 1/f^2p power spectrum of natural images (Field 1987). L-BFGS takes it as the metric
of its first step and of what its history does not span; it changes the path, not the loss.
"""

import torch
from torch import Tensor

EIGENVALUE_FLOOR = 0.01
"""Least colour variance relative to the greatest, so that a grey style can still remove colour."""


def color_covariance(image: Tensor) -> Tensor:
    """Covariance of the colours of an image (3, H, W) -> (3, 3)."""
    centred = image.flatten(1) - image.flatten(1).mean(dim=1, keepdim=True)
    covariance: Tensor = centred @ centred.T / centred.shape[1]
    return covariance


def color_metric(covariance: Tensor) -> Tensor:
    """The covariance (3, 3), floored and scaled so that its root's mean diagonal is 1."""
    values, vectors = torch.linalg.eigh(covariance.double())
    floored = torch.maximum(values, EIGENVALUE_FLOOR * values[-1:].clamp_min(1e-12))
    root = vectors @ torch.diag(floored.sqrt()) @ vectors.T
    mean = torch.diagonal(root).mean()
    metric: Tensor = root @ root / mean**2
    return metric.to(covariance)


class Preconditioner:
    """P for B images of one size; symmetric and positive definite.

    Args:
        size: (H, W).
        slots: B; their colours are given by ``put``, the identity until then.
        exponent: p of 1/f^p amplitudes; 0: the spectrum is left alone.
        like: gives device and dtype.
    """

    def __init__(self, size: tuple[int, int], slots: int, exponent: float, like: Tensor) -> None:
        self.size = size
        self.mixing = torch.eye(3).repeat(slots, 1, 1).to(like)
        self.spectrum: Tensor | None = None
        if exponent > 0:
            fy = torch.fft.fftfreq(size[0]).view(-1, 1)
            fx = torch.fft.rfftfreq(size[1]).view(1, -1)
            frequency = (fy.square() + fx.square()).sqrt().clamp_min(1 / max(size))
            spectrum = (0.5 / frequency) ** exponent
            self.spectrum = (spectrum / spectrum.mean()).square().to(like)

    def put(self, slot: int, covariance: Tensor) -> None:
        """The image in ``slot`` prefers the colours of this covariance (3, 3)."""
        self.mixing[slot] = color_metric(covariance)

    def __call__(self, gradient: Tensor) -> Tensor:
        """P g, (B, 3, H, W) -> (B, 3, H, W)."""
        moved = torch.einsum("bij,bjhw->bihw", self.mixing, gradient)
        if self.spectrum is not None:
            moved = torch.fft.irfft2(torch.fft.rfft2(moved) * self.spectrum, s=self.size)
        return moved
