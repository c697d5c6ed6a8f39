"""Learning a preconditioner from the steps that a pair has taken.

The steps s and the changes y of the gradient in them are samples of the inverse Hessian, which maps
y to s. The metric that maps them best, of the form that ``Preconditioner`` allows, is learnt in
closed form.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.style.optimizer import matrices
from pipeline.style.optimizer.buffers import select_slot, vectors_at_once
from pipeline.style.optimizer.precondition import Metric, Preconditioner, scaled

PRIOR = 0.1
"""Weight of the present metric against what the steps show; it keeps P positive definite."""

NEAR = 11
"""Side, in pixels, of the square over which steps are averaged to learn where they are long."""

Spectra = Callable[[], Iterable[Tensor]]
"""A function that iterates over the spectra of n images, in parts (some, 3, 2 frequencies)."""


def learnt_metric(P: Preconditioner, slot: Tensor, steps: Tensor, changes: Tensor) -> Metric:
    """Return the metric that best maps changes of the gradient to the steps, for one slot.

    Args:
        P: the preconditioner that measured the changes; it is not changed.
        slot: (1,).
        steps: n steps s / sqrt(s.y) (n, 3 H W).
        changes: P y / sqrt(s.y) (n, 3 H W) for the changes y of the gradient in these steps. A
            row of zeros in both stands for no step.
    """
    root = select_slot(P.root, slot)
    # In the coordinates in which P is R: D^(-1/2) s, and R D^(1/2) y.
    seen, moved = (_spectra(P, each, root) for each in (steps, changes))
    rings = _learnt_rings(P, slot, seen, moved)
    places = _learnt_places(P, slot, rings, seen, moved)
    return Metric(rings.to(root), root * places.sqrt())


def _spectra(P: Preconditioner, vectors: Tensor, root: Tensor) -> Spectra:
    """Return the spectra of vectors (n, 3 H W) divided by ``root`` (1, H, W).

    If they fit into one part they are computed once. Otherwise each iteration computes them
    again, so that memory holds one part at a time.
    """
    parts = torch.split(vectors.view(-1, 3, *P.size), vectors_at_once(vectors))

    def spectra() -> Iterable[Tensor]:
        return (P.spectrum(part / root) for part in parts)

    if len(parts) > 1:
        return spectra
    kept = list(spectra())
    return lambda: kept


def _learnt_rings(P: Preconditioner, slot: Tensor, steps: Spectra, moved: Spectra) -> Tensor:
    """Learn R (rings, 3, 3), in float64.

    On each ring R is the geometric mean of S and Y^-1, for which R Y R = S. S is the sum of
    s s^T / s.y over the steps and Y that of y y^T / s.y over the changes. If the inverse
    Hessian had R's form, and the steps covered all of it, it would be R.

    Args:
        P: the preconditioner.
        slot: (1,).
        steps: spectra of s / sqrt(s.y).
        moved: spectra of R y / sqrt(s.y) for the old R.
    """
    old, inverse = (select_slot(each, slot).double() for each in (P.rings, P.inverse))
    S, RYR = _by_ring(P, steps), _by_ring(P, moved)
    Y = inverse @ RYR @ inverse
    S = S + PRIOR * _mean_diagonal(inverse @ S) * old
    Y = Y + PRIOR * _mean_diagonal(old @ Y) * inverse
    return scaled(matrices.geometric_mean(S, Y))


def _learnt_places(
    P: Preconditioner, slot: Tensor, rings: Tensor, steps: Spectra, moved: Spectra
) -> Tensor:
    """Learn how much longer than R says steps are near each pixel, (1, H, W), with mean 1.

    This is the same geometric mean, of R^(-1/2) s and R^(1/2) y for the new R.

    Args:
        P: the preconditioner.
        slot: (1,).
        rings: the new R (rings, 3, 3).
        steps: as in ``_learnt_rings``.
        moved: as in ``_learnt_rings``.
    """
    root, unroot = (each.to(P.rings) for each in matrices.roots(rings))
    long = _near(P, steps, unroot)
    stiff = _near(P, moved, root @ select_slot(P.inverse, slot))
    places = ((long + PRIOR) / (stiff + PRIOR)).sqrt()
    return places / places.mean()


def _near(P: Preconditioner, spectra: Spectra, rings: Tensor) -> Tensor:
    """Average (R a)^2 over images a, colours and the neighbourhood of each pixel.

    Args:
        P: the preconditioner.
        spectra: spectra of the images a.
        rings: R (rings, 3, 3).

    Returns:
        (1, H, W), scaled to mean 1.
    """
    table = P.table_of(rings)
    squares = rings.new_zeros(1, *P.size)
    for seen in spectra():
        images = P.mixed(seen, table)
        squares += images.square_().sum(dim=(0, 1))
    near: Tensor = F.avg_pool2d(
        squares[None], NEAR, stride=1, padding=NEAR // 2, count_include_pad=False
    )[0]
    return near / near.mean().clamp_min(torch.finfo(near.dtype).tiny)


def _by_ring(P: Preconditioner, spectra: Spectra) -> Tensor:
    """Sum a a^T over images a and over each ring, (rings, 3, 3) in float64.

    The order of the sums is fixed, so that the same images teach the same metric, to the bit.

    Args:
        P: the preconditioner.
        spectra: spectra of the images a.
    """
    products = P.rings.new_zeros(3, 3, 2 * len(P.ring))
    for seen in spectra():
        for channel in range(3):  # only the upper triangle, as the matrix is symmetric
            of_channel = seen[:, channel, None] * seen[:, channel:]
            products[channel, channel:] += of_channel.sum(dim=0)
    at_each = F.pad(products.double().view(3, 3, -1, 2).sum(dim=3), (0, 1))
    # One row of the matrix at a time, because a large image's rings have many members.
    rows = [row[:, P.members].sum(dim=2) for row in at_each]
    upper = torch.stack(rows).permute(2, 0, 1)
    return upper + upper.triu(1).mT


def _mean_diagonal(rings: Tensor) -> Tensor:
    """Average each diagonal, (n, 3, 3) -> (n, 1, 1), with a floor above 0."""
    mean = torch.diagonal(rings, dim1=1, dim2=2).mean(dim=1)
    floored: Tensor = mean.clamp_min(1e-12 * mean.max())
    return floored[:, None, None]
