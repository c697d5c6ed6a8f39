"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

P is an estimate of the covariance of the change that the optimiser is looking for. At first it is
the colour covariance of the style image times the 1/f^2p power spectrum of natural images (Field
1987). Later it is learnt from the pair's own steps (``learning``), also where in the image they
are long. L-BFGS uses P as the metric of its first step and of directions that its history does not
span. P changes the path, not the loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.optimizer import matrices
from pipeline.style.optimizer.buffers import select_slot

EIGENVALUE_FLOOR = 0.01
"""Smallest colour variance, relative to the largest, so that a grey style can remove colour."""


@dataclass(frozen=True)
class Metric:
    """P = D^(1/2) R D^(1/2) for one image size (H, W).

    Attributes:
        rings: R, a matrix over the colours for each ring of frequencies (rings, 3, 3).
        root: D^(1/2), a number for each pixel (1, H, W).
    """

    rings: Tensor
    root: Tensor


def color_covariance(image: Tensor) -> Tensor:
    """Compute the covariance of an image's colours, (3, H, W) -> (3, 3)."""
    centred = image.flatten(1) - image.flatten(1).mean(dim=1, keepdim=True)
    covariance: Tensor = centred @ centred.T / centred.shape[1]
    return covariance


def color_metric(covariance: Tensor) -> Tensor:
    """Return a covariance (3, 3) with a floor, scaled so that its root's mean diagonal is 1.

    See ``EIGENVALUE_FLOOR``.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    floored = torch.maximum(values, EIGENVALUE_FLOOR * values[-1:].clamp_min(1e-12))
    root = vectors @ torch.diag(floored.sqrt()) @ vectors.T
    mean = torch.diagonal(root).mean()
    metric: Tensor = root @ root / mean**2
    return metric.to(covariance)


class Preconditioner:
    """P for B images of one size; symmetric and positive definite.

    In the frequency domain R is a matrix over the colours, the same for all frequencies of a ring.
    A ring is made of the frequencies whose length, in cycles per longer side of the image, rounds
    to the same number. D, a number for each pixel, is 1 until something is learnt.

    Args:
        size: (H, W).
        slots: B.
        exponent: p of the 1/f^p amplitudes; with 0 all frequencies are alike.
        like: a tensor with the device and dtype to use.

    Attributes:
        rings: R of each slot (B, rings, 3, 3).
        inverse: its inverse (B, rings, 3, 3).
        root: D^(1/2) of each slot (B, 1, H, W).
        ring: index of each frequency's ring (frequencies,).
        members: the frequencies on each ring (rings, most), filled up with the number of
            frequencies.
    """

    def __init__(self, size: tuple[int, int], slots: int, exponent: float, like: Tensor) -> None:
        self.size = size
        fy = torch.fft.fftfreq(size[0]).view(-1, 1)
        fx = torch.fft.rfftfreq(size[1]).view(1, -1)
        cycles = (fy.square() + fx.square()).sqrt() * max(size)
        ring = (cycles.round().long().clamp_min(1) - 1).flatten()
        rings = torch.arange(1, int(ring.max()) + 2)
        self.ring = ring.to(like.device)
        self.members = _members(ring, len(rings)).to(like.device)
        self.natural = (rings / max(size)).pow(-2 * exponent).to(like)
        self.rings = torch.eye(3).to(like).repeat(slots, len(rings), 1, 1)
        self.inverse = self.rings.clone()
        self.root = torch.ones(slots, 1, *size).to(like)
        # What the real and imaginary parts of a spectrum, alternating, are multiplied by; large.
        self.table: Tensor | None = None
        if not gpu_passes.has_by_ring(self.root):
            self.table = torch.eye(3).to(like).view(1, 3, 3, 1).repeat(slots, 1, 1, 2 * len(ring))

    def put(self, slot: int, colors: Tensor | None = None, metric: Metric | None = None) -> None:
        """Set the metric of a slot.

        Args:
            slot: index of the slot.
            colors: the colour covariance (3, 3) of a new metric; without it all colours are alike.
            metric: the metric; if not given, a new one with the spectrum of natural images.
        """
        if metric is None:
            mixing = torch.eye(3).to(self.rings) if colors is None else color_metric(colors)
            rings = scaled(self.natural[:, None, None] * mixing)
            metric = Metric(rings, torch.ones_like(self.root[slot]))
        self._set(torch.full((1,), slot, device=self.ring.device), metric)

    def metric(self, slot: int) -> Metric:
        """Copy the metric of a slot."""
        return Metric(self.rings[slot].clone(), self.root[slot].clone())

    def __call__(self, gradient: Tensor) -> Tensor:
        """Compute P g, (B, 3, H, W) -> (B, 3, H, W)."""
        weighed = self.root * gradient
        seen = torch.fft.rfft2(weighed)
        if self.table is None:
            moved = gpu_passes.by_ring(seen.flatten(2), self.rings, self.ring)
        else:
            moved = _multiplied(torch.view_as_real(seen).flatten(2), self.table)
        back: Tensor = torch.fft.irfft2(moved.view_as(seen), s=self.size)
        return self.root * back

    def change(
        self, slot: Tensor, metric: Metric, taken: Tensor
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Replace the metric of a slot (1,) if ``taken``, () bool; otherwise it stays the same.

        Returns:
            A function that maps P v for the old P to P v for the new P, and v, each (n, 3, H, W).
        """
        old_root = select_slot(self.root, slot)
        back = self.table_of(select_slot(self.inverse, slot))
        rings = torch.where(taken, metric.rings, select_slot(self.rings, slot))
        root = torch.where(taken, metric.root, old_root)
        forth = self._set(slot, Metric(rings, root))

        def convert(moved: Tensor) -> tuple[Tensor, Tensor]:
            v = self._moved(moved / old_root, back) / old_root
            return root * self._moved(root * v, forth), v

        return convert

    def _set(self, slot: Tensor, metric: Metric) -> Tensor:
        """Set the metric of a slot (1,), and return its table (1, 3, 3, 2 frequencies)."""
        rings = metric.rings.to(self.rings)
        table = self.table_of(rings)
        self.rings.index_copy_(0, slot, rings[None])
        self.inverse.index_copy_(0, slot, matrices.inverse(rings)[None])
        self.root.index_copy_(0, slot, metric.root[None])
        if self.table is not None:
            self.table.index_copy_(0, slot, table)
        return table

    def table_of(self, rings: Tensor) -> Tensor:
        """Repeat each ring's matrix for all parts, (rings, 3, 3) -> (1, 3, 3, 2 frequencies)."""
        of_each = rings.permute(1, 2, 0)[None].index_select(3, self.ring)
        return of_each.repeat_interleave(2, dim=3)

    def spectrum(self, images: Tensor) -> Tensor:
        """Transform (B, 3, H, W) -> (B, 3, 2 frequencies), real and imaginary parts alternating."""
        return torch.view_as_real(torch.fft.rfft2(images)).flatten(2)

    def _moved(self, images: Tensor, table: Tensor) -> Tensor:
        """Multiply the spectra of images (B, 3, H, W) by a table; see ``_multiplied``."""
        return self.mixed(self.spectrum(images), table)

    def mixed(self, seen: Tensor, table: Tensor) -> Tensor:
        """Multiply spectra (B, 3, 2 frequencies) by a table, and return images (B, 3, H, W)."""
        H, W = self.size
        spectrum = _multiplied(seen, table).view(-1, 3, H, W // 2 + 1)
        result: Tensor = torch.fft.irfft2(spectrum, s=self.size)
        return result


def _multiplied(seen: Tensor, table: Tensor) -> Tensor:
    """Multiply spectra by a matrix for each frequency.

    Args:
        seen: (B, 3, 2 n), real and imaginary parts alternating.
        table: (B or 1, 3, 3, 2 n), each frequency's matrix twice.

    Returns:
        (B, 3, n), complex.
    """
    moved = table[:, :, 0] * seen[:, None, 0]
    for channel in (1, 2):
        moved.addcmul_(table[:, :, channel], seen[:, None, channel])
    return torch.view_as_complex(moved.view(*moved.shape[:2], -1, 2))


def _members(ring: Tensor, rings: int) -> Tensor:
    """List the frequencies on each ring (rings, most); short rows are filled with len(ring)."""
    counts = torch.bincount(ring, minlength=rings)
    order = torch.argsort(ring, stable=True)
    place = torch.arange(len(ring)) - (counts.cumsum(0) - counts)[ring[order]]
    members = torch.full((rings, int(counts.max())), len(ring))
    members[ring[order], place] = order
    return members


def scaled(rings: Tensor) -> Tensor:
    """Scale R (rings, 3, 3) so that its mean variance is 1."""
    scaled: Tensor = rings / torch.diagonal(rings, dim1=1, dim2=2).mean()
    return scaled
