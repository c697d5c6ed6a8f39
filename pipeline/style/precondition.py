"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

P is a guess at the covariance of the change that is sought: the colour covariance of the style
image, times the 1/f^2p power spectrum of natural images (Field 1987); later what the pair's own
steps have shown, also of where in the image. L-BFGS takes it as the metric of its first step and of
what its history does not span; it changes the path, not the loss.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.style import gpu_passes
from pipeline.style.lbfgs import at_a_time

EIGENVALUE_FLOOR = 0.01
"""Least colour variance relative to the greatest, so that a grey style can still remove colour."""

PRIOR = 0.1
"""Weight of the present metric beside what the steps show: P stays positive definite."""

NEAR = 11
"""Side in pixels of the square over which steps are averaged, to learn where they are long."""


@dataclass(frozen=True)
class Metric:
    """P = D^(1/2) R D^(1/2), of one image size (H, W).

    rings: R, a matrix over the colours for each ring of frequencies (rings, 3, 3). root: of D, a
    number for each pixel (1, H, W).
    """

    rings: Tensor
    root: Tensor


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

    In the frequency domain R is a matrix over the colours, the same on all of a ring: those
    frequencies whose length, in cycles per longer side of the image, rounds to the same number.
    D, a number for each pixel, is 1 until something is learnt.

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
        ring = (cycles.round().long().clamp_min(1) - 1).flatten()
        rings = torch.arange(1, int(ring.max()) + 2)
        self.ring = ring.to(like.device)
        self.members = _members(ring, len(rings)).to(like.device)
        self.natural = (rings / max(size)).pow(-2 * exponent).to(like)
        self.rings = torch.eye(3).to(like).repeat(slots, len(rings), 1, 1)
        self.inverse = self.rings.clone()
        self.root = torch.ones(slots, 1, *size).to(like)
        # What a spectrum is multiplied by, its real and imaginary parts in turns.
        self.table = torch.eye(3).to(like).view(1, 3, 3, 1).repeat(slots, 1, 1, 2 * len(ring))

    def put(self, slot: int, colors: Tensor | None = None, metric: Metric | None = None) -> None:
        """The image in ``slot`` moves by this metric; without one by the spectrum of natural
        images and a colour covariance (3, 3), if given."""
        if metric is None:
            mixing = torch.eye(3).to(self.rings) if colors is None else color_metric(colors)
            rings = _scaled(self.natural[:, None, None] * mixing)
            metric = Metric(rings, torch.ones_like(self.root[slot]))
        self._set(slot, metric)

    def metric(self, slot: int) -> Metric:
        """By which the image in ``slot`` moves now."""
        return Metric(self.rings[slot].clone(), self.root[slot].clone())

    def __call__(self, gradient: Tensor) -> Tensor:
        """P g, (B, 3, H, W) -> (B, 3, H, W)."""
        weighed = self.root * gradient
        seen = torch.fft.rfft2(weighed)
        moved = gpu_passes.by_ring(seen.flatten(2), self.rings, self.ring)
        if moved is None:
            moved = _multiplied(torch.view_as_real(seen).flatten(2), self.table)
        back: Tensor = torch.fft.irfft2(moved.view_as(seen), s=self.size)
        return self.root * back

    def change(self, slot: int, metric: Metric) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Give ``slot`` this metric. Returns what makes of old P v (n, 3, H, W) new ones, and v,
        each (n, 3, H, W)."""
        old_root, back = self.root[slot].clone(), self._spread(self.inverse[slot])
        forth = self._spread(metric.rings)
        self._set(slot, metric)

        def convert(moved: Tensor) -> tuple[Tensor, Tensor]:
            v = self._moved(moved / old_root, back) / old_root
            return metric.root * self._moved(metric.root * v, forth), v

        return convert

    def _set(self, slot: int, metric: Metric) -> None:
        self.rings[slot] = metric.rings
        self.inverse[slot] = _inverse(metric.rings)
        self.root[slot] = metric.root
        self.table[slot] = self._spread(metric.rings)[0]

    def _spread(self, rings: Tensor) -> Tensor:
        """A matrix for each frequency, twice: (rings, 3, 3) -> (1, 3, 3, 2 frequencies)."""
        of_each = rings.permute(1, 2, 0)[None].index_select(3, self.ring)
        return of_each.repeat_interleave(2, dim=3)

    def learnt(self, slot: int, steps: Tensor, changes: Tensor, sy: Tensor) -> Metric:
        """The metric that takes the gradient's changes to the steps best.

        Args:
            steps: n steps s (n, 3 H W).
            changes: P y (n, 3 H W) for the changes y of the gradient in them.
            sy: s.y > 0 (n,).
        """
        root = self.root[slot]
        # In the coordinates in which P is R: D^(-1/2) s, and R D^(1/2) y.
        steps, moved = (each.view(-1, 3, *self.size) / root for each in (steps, changes))
        rings = self._learnt_rings(slot, steps, moved, sy)
        return Metric(rings, root * self._learnt_places(slot, rings, steps, moved, sy).sqrt())

    def _learnt_rings(self, slot: int, steps: Tensor, moved: Tensor, sy: Tensor) -> Tensor:
        """R (rings, 3, 3): on each ring the geometric mean of S and Y^-1, the one for which
        R Y R = S. S is the sum of s s^T / s.y over the steps, Y that of y y^T / s.y over the
        changes: if the inverse Hessian were of R's form, and the steps spoke of all of it, it would
        be R. steps, moved: s and old R y (n, 3, H, W)."""
        old, inverse = self.rings[slot].double(), self.inverse[slot].double()
        S, RYR = self._by_ring(steps, sy), self._by_ring(moved, sy)
        Y = inverse @ RYR @ inverse
        S = S + PRIOR * _trace(inverse @ S) * old
        Y = Y + PRIOR * _trace(old @ Y) * inverse
        root, unroot = _roots(Y)
        rings = unroot @ _roots(root @ S @ root)[0] @ unroot
        return _scaled(rings).to(self.rings)

    def _learnt_places(
        self, slot: int, rings: Tensor, steps: Tensor, moved: Tensor, sy: Tensor
    ) -> Tensor:
        """How much longer than R says steps are near each pixel, (1, H, W), 1 in the mean.

        The same geometric mean, with the new R on both sides: of R^(-1/2) s and R^(1/2) y.
        """
        root, unroot = (each.to(rings) for each in _roots(rings.double()))
        long = self._near(steps, unroot, sy)
        stiff = self._near(moved, root @ self.inverse[slot], sy)
        places = ((long + PRIOR) / (stiff + PRIOR)).sqrt()
        return places / places.mean()

    def _near(self, images: Tensor, rings: Tensor, sy: Tensor) -> Tensor:
        """Mean over images a (n, 3, H, W) and near each pixel of (R a)^2 / s.y for R by rings
        (rings, 3, 3): (1, H, W), 1 in the mean."""
        table = self._spread(rings)
        squares = torch.zeros_like(self.root[0])
        for part, weights in _parts(images, sy):
            squares += (self._moved(part, table).square() / weights).sum(dim=(0, 1))
        near: Tensor = F.avg_pool2d(
            squares[None], NEAR, stride=1, padding=NEAR // 2, count_include_pad=False
        )[0]
        return near / near.mean().clamp_min(torch.finfo(near.dtype).tiny)

    def _by_ring(self, images: Tensor, sy: Tensor) -> Tensor:
        """Sum over images a (n, 3, H, W), and over each ring, of a a^T / s.y: (rings, 3, 3).

        Added up in one order always, so that the same images teach the same, to the bit.
        """
        products = images.new_zeros(3, 3, 2 * len(self.ring))
        for part, weights in _parts(images, sy):
            seen = self._spectrum(part)
            weighed = seen / weights.flatten(2)
            products += (seen[:, :, None] * weighed[:, None]).sum(dim=0)
        at_each = products.double().view(3, 3, -1, 2).sum(dim=3)
        at_each = torch.cat([at_each, at_each.new_zeros(3, 3, 1)], dim=2)
        # By rows of the matrix: of a large image the rings' members are many.
        rows = [row[:, self.members].sum(dim=2) for row in at_each]
        return torch.stack(rows).permute(2, 0, 1)

    def _spectrum(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 2 frequencies), real and imaginary parts in turns."""
        return torch.view_as_real(torch.fft.rfft2(images)).flatten(2)

    def _moved(self, images: Tensor, table: Tensor) -> Tensor:
        """Images (B, 3, H, W), their spectra multiplied by a matrix per frequency (B or 1, 3, 3,
        2 frequencies)."""
        H, W = self.size
        spectrum = _multiplied(self._spectrum(images), table).view(-1, 3, H, W // 2 + 1)
        result: Tensor = torch.fft.irfft2(spectrum, s=self.size)
        return result


def _multiplied(seen: Tensor, table: Tensor) -> Tensor:
    """Spectra (B, 3, 2 n), real and imaginary parts in turns, times a matrix for each frequency (B
    or 1, 3, 3, 2 n): (B, 3, n), complex."""
    moved = table[:, :, 0] * seen[:, None, 0]
    for channel in (1, 2):
        moved.addcmul_(table[:, :, channel], seen[:, None, channel])
    return torch.view_as_complex(moved.view(*moved.shape[:2], -1, 2))


def _parts(images: Tensor, sy: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """So many of (n, 3, H, W) at a time as memory is to hold beside them, with s.y (n, 1, 1, 1)."""
    size = at_a_time(images.flatten(1))
    return zip(torch.split(images, size), torch.split(sy.view(-1, 1, 1, 1), size), strict=True)


def _members(ring: Tensor, rings: int) -> Tensor:
    """The frequencies on each ring (rings, most); where there are fewer, one behind the last."""
    counts = torch.bincount(ring, minlength=rings)
    order = torch.argsort(ring, stable=True)
    place = torch.arange(len(ring)) - (counts.cumsum(0) - counts)[ring[order]]
    members = torch.full((rings, int(counts.max())), len(ring))
    members[ring[order], place] = order
    return members


def _scaled(rings: Tensor) -> Tensor:
    """R such that its mean variance is 1."""
    scaled: Tensor = rings / torch.diagonal(rings, dim1=1, dim2=2).mean()
    return scaled


def _trace(matrices: Tensor) -> Tensor:
    """Mean of the diagonals, (n, 3, 3) -> (n, 1, 1); never 0."""
    mean = torch.diagonal(matrices, dim1=1, dim2=2).mean(dim=1)
    floored: Tensor = mean.clamp_min(1e-12 * mean.max())
    return floored[:, None, None]


def _inverse(rings: Tensor) -> Tensor:
    # Not ``inv``, which waits for the device to learn whether there is one: there is.
    inverse: Tensor = torch.linalg.inv_ex(rings.double()).inverse
    return inverse.to(rings)


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric roots of symmetric positive definite matrices (n, 3, 3), and their inverses."""
    values, vectors = torch.linalg.eigh(matrices)
    roots = values.clamp_min(torch.finfo(values.dtype).tiny).sqrt()
    return tuple(vectors @ torch.diag_embed(each) @ vectors.mT for each in (roots, 1 / roots))
