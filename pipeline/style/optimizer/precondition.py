"""A preconditioner for images: coarse structure and the style's colours move first, grain last.

P is a guess at the covariance of the change that is sought: the colour covariance of the style
image, times the 1/f^2p power spectrum of natural images (Field 1987); later what the pair's own
steps have shown, also of where in the image. L-BFGS takes it as the metric of its first step and of
what its history does not span; it changes the path, not the loss.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.optimizer import matrices
from pipeline.style.optimizer.lbfgs import at_a_time, one_of

EIGENVALUE_FLOOR = 0.01
"""Least colour variance relative to the greatest, so that a grey style can still remove colour."""

PRIOR = 0.1
"""Weight of the present metric beside what the steps show: P stays positive definite."""

NEAR = 11
"""Side in pixels of the square over which steps are averaged, to learn where they are long."""

Spectra = Callable[[], Iterable[Tensor]]
"""Of n images, in parts of (some, 3, 2 frequencies), as often as they are asked for."""


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
        # What a spectrum is multiplied by, its real and imaginary parts in turns; large.
        self.table: Tensor | None = None
        if not gpu_passes.has_by_ring(self.root):
            self.table = torch.eye(3).to(like).view(1, 3, 3, 1).repeat(slots, 1, 1, 2 * len(ring))

    def put(self, slot: int, colors: Tensor | None = None, metric: Metric | None = None) -> None:
        """The image in ``slot`` moves by this metric; without one by the spectrum of natural
        images and a colour covariance (3, 3), if given."""
        if metric is None:
            mixing = torch.eye(3).to(self.rings) if colors is None else color_metric(colors)
            rings = _scaled(self.natural[:, None, None] * mixing)
            metric = Metric(rings, torch.ones_like(self.root[slot]))
        self._set(torch.full((1,), slot, device=self.ring.device), metric)

    def metric(self, slot: int) -> Metric:
        """By which the image in ``slot`` moves now."""
        return Metric(self.rings[slot].clone(), self.root[slot].clone())

    def __call__(self, gradient: Tensor) -> Tensor:
        """P g, (B, 3, H, W) -> (B, 3, H, W)."""
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
        """Give ``slot`` (1,) this metric where ``taken``, () bool; else it keeps its own.

        Returns what makes of old P v (n, 3, H, W) new ones, and v, each (n, 3, H, W).
        """
        old_root, back = one_of(self.root, slot), self._spread(one_of(self.inverse, slot))
        rings = torch.where(taken, metric.rings, one_of(self.rings, slot))
        root = torch.where(taken, metric.root, old_root)
        forth = self._set(slot, Metric(rings, root))

        def convert(moved: Tensor) -> tuple[Tensor, Tensor]:
            v = self._moved(moved / old_root, back) / old_root
            return root * self._moved(root * v, forth), v

        return convert

    def _set(self, slot: Tensor, metric: Metric) -> Tensor:
        """Returns the table (1, 3, 3, 2 frequencies)."""
        rings = metric.rings.to(self.rings)
        table = self._spread(rings)
        self.rings.index_copy_(0, slot, rings[None])
        self.inverse.index_copy_(0, slot, matrices.inverse(rings)[None])
        self.root.index_copy_(0, slot, metric.root[None])
        if self.table is not None:
            self.table.index_copy_(0, slot, table)
        return table

    def _spread(self, rings: Tensor) -> Tensor:
        """A matrix for each frequency, twice: (rings, 3, 3) -> (1, 3, 3, 2 frequencies)."""
        of_each = rings.permute(1, 2, 0)[None].index_select(3, self.ring)
        return of_each.repeat_interleave(2, dim=3)

    def learnt(self, slot: Tensor, steps: Tensor, changes: Tensor) -> Metric:
        """The metric that takes the gradient's changes to the steps best, for ``slot`` (1,).

        Args:
            steps: n steps s / sqrt(s.y) (n, 3 H W).
            changes: P y / sqrt(s.y) (n, 3 H W) for the changes y of the gradient in them. Where
                both are zero, no step is known.
        """
        root = one_of(self.root, slot)
        # In the coordinates in which P is R: D^(-1/2) s, and R D^(1/2) y.
        seen, moved = (self._spectra(each, root) for each in (steps, changes))
        rings = self._learnt_rings(slot, seen, moved)
        places = self._learnt_places(slot, rings, seen, moved)
        return Metric(rings.to(root), root * places.sqrt())

    def _spectra(self, vectors: Tensor, root: Tensor) -> Spectra:
        """Of vectors (n, 3 H W) over ``root``. Those of small images, one part, are kept; of large
        ones memory is to hold one part at a time."""
        parts = torch.split(vectors.view(-1, 3, *self.size), at_a_time(vectors))

        def spectra() -> Iterable[Tensor]:
            return (self._spectrum(part / root) for part in parts)

        if len(parts) > 1:
            return spectra
        kept = list(spectra())
        return lambda: kept

    def _learnt_rings(self, slot: Tensor, steps: Spectra, moved: Spectra) -> Tensor:
        """R (rings, 3, 3) in float64: on each ring the geometric mean of S and Y^-1, the one for
        which R Y R = S. S is the sum of s s^T / s.y over the steps, Y that of y y^T / s.y over the
        changes: if the inverse Hessian were of R's form, and the steps spoke of all of it, it would
        be R. steps, moved: spectra of s and old R y, over sqrt(s.y)."""
        old, inverse = (one_of(each, slot).double() for each in (self.rings, self.inverse))
        S, RYR = self._by_ring(steps), self._by_ring(moved)
        Y = inverse @ RYR @ inverse
        S = S + PRIOR * _trace(inverse @ S) * old
        Y = Y + PRIOR * _trace(old @ Y) * inverse
        return _scaled(matrices.geometric_mean(S, Y))

    def _learnt_places(self, slot: Tensor, rings: Tensor, steps: Spectra, moved: Spectra) -> Tensor:
        """How much longer than R says steps are near each pixel, (1, H, W), 1 in the mean.

        The same geometric mean, with the new R on both sides: of R^(-1/2) s and R^(1/2) y.
        """
        root, unroot = (each.to(self.rings) for each in matrices.roots(rings))
        long = self._near(steps, unroot)
        stiff = self._near(moved, root @ one_of(self.inverse, slot))
        places = ((long + PRIOR) / (stiff + PRIOR)).sqrt()
        return places / places.mean()

    def _near(self, spectra: Spectra, rings: Tensor) -> Tensor:
        """Mean over images a and near each pixel of (R a)^2 for R by rings (rings, 3, 3): (1, H,
        W), 1 in the mean. spectra: of a."""
        table = self._spread(rings)
        squares = rings.new_zeros(1, *self.size)
        for seen in spectra():
            images = self._mixed(seen, table)
            squares += images.square_().sum(dim=(0, 1))
        near: Tensor = F.avg_pool2d(
            squares[None], NEAR, stride=1, padding=NEAR // 2, count_include_pad=False
        )[0]
        return near / near.mean().clamp_min(torch.finfo(near.dtype).tiny)

    def _by_ring(self, spectra: Spectra) -> Tensor:
        """Sum over images a, and over each ring, of a a^T: (rings, 3, 3) in float64.

        Added up in one order always, so that the same images teach the same, to the bit.
        spectra: of a.
        """
        products = self.rings.new_zeros(3, 3, 2 * len(self.ring))
        for seen in spectra():
            for channel in range(3):  # what is below the diagonal is above it, too
                of_channel = seen[:, channel, None] * seen[:, channel:]
                products[channel, channel:] += of_channel.sum(dim=0)
        at_each = F.pad(products.double().view(3, 3, -1, 2).sum(dim=3), (0, 1))
        # By rows of the matrix: of a large image the rings' members are many.
        rows = [row[:, self.members].sum(dim=2) for row in at_each]
        upper = torch.stack(rows).permute(2, 0, 1)
        return upper + upper.triu(1).mT

    def _spectrum(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, 2 frequencies), real and imaginary parts in turns."""
        return torch.view_as_real(torch.fft.rfft2(images)).flatten(2)

    def _moved(self, images: Tensor, table: Tensor) -> Tensor:
        """Images (B, 3, H, W), their spectra multiplied by a matrix per frequency (B or 1, 3, 3,
        2 frequencies)."""
        return self._mixed(self._spectrum(images), table)

    def _mixed(self, seen: Tensor, table: Tensor) -> Tensor:
        """The same of images whose spectra (B, 3, 2 frequencies) are known."""
        H, W = self.size
        spectrum = _multiplied(seen, table).view(-1, 3, H, W // 2 + 1)
        result: Tensor = torch.fft.irfft2(spectrum, s=self.size)
        return result


def _multiplied(seen: Tensor, table: Tensor) -> Tensor:
    """Spectra (B, 3, 2 n), real and imaginary parts in turns, times a matrix for each frequency (B
    or 1, 3, 3, 2 n): (B, 3, n), complex."""
    moved = table[:, :, 0] * seen[:, None, 0]
    for channel in (1, 2):
        moved.addcmul_(table[:, :, channel], seen[:, None, channel])
    return torch.view_as_complex(moved.view(*moved.shape[:2], -1, 2))


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


def _trace(rings: Tensor) -> Tensor:
    """Mean of the diagonals, (n, 3, 3) -> (n, 1, 1); never 0."""
    mean = torch.diagonal(rings, dim1=1, dim2=2).mean(dim=1)
    floored: Tensor = mean.clamp_min(1e-12 * mean.max())
    return floored[:, None, None]
