"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

The optimiser works on z with x = x_0 + W z. W is the square root of a guess at the change's
covariance: the colour covariance of the style image, times the 1/f^p amplitude spectrum of natural
images (Field 1987). W is self-adjoint and invertible: it changes the path, not the loss.
"""

import torch
from torch import Tensor

EIGENVALUE_FLOOR = 0.01
"""Least colour variance relative to the greatest, so that a grey style can still remove colour."""


def color_covariance(image: Tensor) -> Tensor:
    """Covariance of the colours of an image (3, H, W) -> (3, 3)."""
    return torch.cov(image.flatten(1), correction=0)


class Preconditioner:
    """W for a batch of images (B, 3, H, W).

    Args:
        size: (H, W).
        exponent: p of 1/f^p; 0: the spectrum is left alone.
        covariance: (B, 3, 3) colour covariances, or None: colours are left alone.
        like: gives device and dtype.
    """

    def __init__(
        self, size: tuple[int, int], exponent: float, covariance: Tensor | None, like: Tensor
    ) -> None:
        self.size = size
        self.spectrum: Tensor | None = None
        self.mixing: Tensor | None = None
        if exponent > 0:
            fy = torch.fft.fftfreq(size[0]).view(-1, 1)
            fx = torch.fft.rfftfreq(size[1]).view(1, -1)
            frequency = (fy.square() + fx.square()).sqrt().clamp_min(1 / max(size))
            spectrum = (0.5 / frequency) ** exponent
            self.spectrum = (spectrum / spectrum.mean()).to(like)
        if covariance is not None:
            values, vectors = torch.linalg.eigh(covariance.double())
            greatest = values[:, -1:].clamp_min(1e-12)
            root = torch.maximum(values, EIGENVALUE_FLOOR * greatest).sqrt()
            mixing = vectors @ torch.diag_embed(root) @ vectors.transpose(1, 2)  # (B, 3, 3)
            scale = torch.diagonal(mixing, dim1=1, dim2=2).mean(dim=1)
            self.mixing = (mixing / scale[:, None, None]).to(like)

    def __call__(self, z: Tensor) -> Tensor:
        """W z, (B, 3, H, W) -> (B, 3, H, W)."""
        if self.mixing is not None:
            z = torch.einsum("bij,bjhw->bihw", self.mixing, z)
        if self.spectrum is not None:
            z = torch.fft.irfft2(torch.fft.rfft2(z) * self.spectrum, s=self.size)
        return z
