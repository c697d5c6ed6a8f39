"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

P is a guess at the covariance of the change that is sought: the colour covariance of the style
image, times the 1/f^2p power spectrum of natural images (Field 1987); later what the pair's own
steps have shown. L-BFGS takes it as the metric of its first step and of what its history does not
span; it changes the path, not the loss.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

EIGENVALUE_FLOOR = 0.01
"""Least colour variance relative to the greatest, so that a grey style can still remove colour."""

PRIOR = 0.1
"""Weight of the present metric beside what the steps show: P stays positive definite."""


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

    In the frequency domain P is a matrix over the colours, the same on all of a ring: those
    frequencies whose length, in cycles per longer side of the image, rounds to the same number.

    Args:
        size: (H, W).
        slots: B.
        exponent: p of 1/f^p amplitudes; 0: all frequencies alike.
        like: gives device and dtype.
    """

    def __init__(self, size: tuple[int, int], slots: int, exponent: float, like: Tensor) -> None:
        self.size = size
        fy = torch.fft.fftfreq(size[0]).view(-1, 1)
        fx = torch.fft.rfftfreq(size[1]).view(1, -1)
        cycles = (fy.square() + fx.square()).sqrt() * max(size)
        self.ring = (cycles.round().long().clamp_min(1) - 1).flatten().to(like.device)
        rings = torch.arange(1, int(self.ring.max()) + 2)
        self.natural = (rings / max(size)).pow(-2 * exponent).to(like)
        self.metric = torch.eye(3).to(like).repeat(slots, len(rings), 1, 1)

    def put(self, slot: int, colors: Tensor | None = None, metric: Tensor | None = None) -> None:
        """The image in ``slot`` moves by this metric (rings, 3, 3); without one by the spectrum of
        natural images and a colour covariance (3, 3), if given."""
        if metric is None:
            mixing = torch.eye(3).to(self.metric) if colors is None else color_metric(colors)
            metric = self.natural[:, None, None] * mixing
        self.metric[slot] = _scaled(metric)

    def __call__(self, gradient: Tensor) -> Tensor:
        """P g, (B, 3, H, W) -> (B, 3, H, W)."""
        return self._filtered(gradient, self.metric)

    def inverse(self, slot: int, moved: Tensor) -> Tensor:
        """g (3, H, W) of a P g (3, H, W) in ``slot``."""
        return self._filtered(moved[None], _inverse(self.metric[slot])[None])[0]

    def change(self, slot: int, metric: Tensor) -> Callable[[Tensor], Tensor]:
        """Give ``slot`` this metric (rings, 3, 3). Returns what makes new P g of old ones."""
        ratio = metric @ _inverse(self.metric[slot])
        self.metric[slot] = metric
        return lambda moved: self._filtered(moved[None], ratio[None])[0]

    def learnt(self, slot: int, pairs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The metric (rings, 3, 3) that takes the gradient's changes to the steps best.

        On each ring the geometric mean of S and Y^-1, the one P for which P Y P = S. S is the sum
        of s s^T / s.y over the steps, Y that of y y^T / s.y over the changes: if the inverse
        Hessian were of the form that P has, and the steps spoke of all of it, it would be P.

        Args:
            pairs: steps s, P y for the changes y of the gradient in them, and s.y > 0; s and P y
                hold 3 H W elements each.
        """
        old = self.metric[slot].cpu().double()
        s_s, Py_Py = (self.metric.new_zeros(3, 3, len(self.ring)) for _ in range(2))
        for s, Py, sy in pairs:
            for total, image in ((s_s, s), (Py_Py, Py)):
                seen = torch.fft.rfft2(image.view(3, *self.size)).flatten(1)
                total += (seen[:, None] * seen[None].conj()).real / sy
        S, PYP = self._by_ring(s_s), self._by_ring(Py_Py)
        inverse = torch.linalg.inv(old)
        Y = inverse @ PYP @ inverse
        S = S + PRIOR * _trace(inverse @ S) * old
        Y = Y + PRIOR * _trace(old @ Y) * inverse
        root = _root(Y)
        unroot = torch.linalg.inv(root)
        metric = unroot @ _root(root @ S @ root) @ unroot
        return _scaled(metric).to(self.metric)

    def _by_ring(self, products: Tensor) -> Tensor:
        """Sums over each ring, (3, 3, frequencies) -> (rings, 3, 3), on the CPU.

        There sums are always made in one order, and matrices as small as these are quickest.
        """
        sums = torch.zeros(3, 3, len(self.natural), dtype=torch.float64)
        sums.index_add_(2, self.ring.cpu(), products.cpu().double())
        return sums.permute(2, 0, 1)

    def _filtered(self, images: Tensor, table: Tensor) -> Tensor:
        """Images (B, 3, H, W) by a matrix per ring, (B, rings, 3, 3)."""
        seen = torch.fft.rfft2(images).flatten(2)
        moved = torch.zeros_like(seen)
        for i in range(3):
            for j in range(3):
                moved[:, i].addcmul_(table[:, :, i, j].index_select(1, self.ring), seen[:, j])
        filtered: Tensor = torch.fft.irfft2(moved.view(*images.shape[:3], -1), s=self.size)
        return filtered


def _scaled(metric: Tensor) -> Tensor:
    """The metric such that its mean variance is 1."""
    scaled: Tensor = metric / torch.diagonal(metric, dim1=1, dim2=2).mean()
    return scaled


def _trace(matrices: Tensor) -> Tensor:
    """Mean of the diagonals, (n, 3, 3) -> (n, 1, 1); never 0."""
    mean = torch.diagonal(matrices, dim1=1, dim2=2).mean(dim=1)
    floored: Tensor = mean.clamp_min(1e-12 * mean.max())
    return floored[:, None, None]


def _inverse(metric: Tensor) -> Tensor:
    inverse: Tensor = torch.linalg.inv(metric.double())
    return inverse.to(metric)


def _root(matrices: Tensor) -> Tensor:
    """The symmetric root of symmetric positive definite matrices (n, 3, 3)."""
    values, vectors = torch.linalg.eigh(matrices)
    root: Tensor = vectors @ torch.diag_embed(values.clamp_min(0).sqrt()) @ vectors.mT
    return root
