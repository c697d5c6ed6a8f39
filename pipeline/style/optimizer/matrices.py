"""Batched functions of 3 x 3 matrices that a CUDA graph can record.

PyTorch's own decompositions wait for the device to learn whether they succeeded. These run the same
few operations for all matrices. Their accuracy is meant for float64.
"""

import math

import torch
from torch import Tensor

SPAN = 1e6
"""Range of singular values that ``_orthogonal`` handles: the largest over the smallest is at most
SPAN^2."""

NEWTON_STEPS = 8
"""Newton steps after which all those singular values are 1, up to float64's rounding."""


def inverse(matrices: Tensor) -> Tensor:
    """Invert symmetric positive definite matrices (n, 3, 3); the result has their dtype."""
    unfactor = _general_inverse(_cholesky(matrices.double()))
    return (unfactor.mT @ unfactor).to(matrices)


def geometric_mean(S: Tensor, Y: Tensor) -> Tensor:
    """Return the R for which R Y R = S, all of them symmetric positive definite (n, 3, 3).

    R = F U^T G^-1, where S = F F^T and Y = G G^T are Cholesky factorisations and U is the
    orthogonal matrix nearest to G^T F. With G^T F = H U, R = G^-T H G^-1, which is symmetric.
    """
    of_S, of_Y = _cholesky(torch.stack([S, Y]))
    nearest = _orthogonal(of_Y.mT @ of_S)
    return _symmetric(of_S @ nearest.mT @ _general_inverse(of_Y))


def roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric roots of symmetric positive definite matrices, and their inverses.

    A root is the geometric mean with the identity. All matrices are (n, 3, 3).
    """
    factor = _cholesky(matrices)
    nearest = _orthogonal(factor)
    return _symmetric(factor @ nearest.mT), _symmetric(nearest @ _general_inverse(factor))


def _orthogonal(matrices: Tensor) -> Tensor:
    """Return the orthogonal U in X = H U, H symmetric positive definite, for X (n, 3, 3).

    Newton's iteration X <- (X + X^-T) / 2 (Higham 1986) keeps U and takes X's singular values to 1:
    values near 1 quickly, large ones by half in each step. So X is scaled before each step to bring
    all of them as close to 1 as possible. The first step maps values in [1 / SPAN, SPAN] to
    [1, (SPAN + 1 / SPAN) / 2], and so on, so the factors are known in advance (Byers and Xu 2008).
    """
    norm, of_inverse = (
        torch.linalg.vector_norm(each, dim=(1, 2), keepdim=True)
        for each in (matrices, _general_inverse(matrices))
    )
    X: Tensor = matrices * (of_inverse / norm).sqrt()
    span = SPAN
    for _ in range(NEWTON_STEPS):
        span = math.sqrt((span + 1 / span) / 2)
        X = (X + _general_inverse(X).mT) / (2 * span)
    return X


def _cholesky(matrices: Tensor) -> Tensor:
    """Return the lower triangular F in M = F F^T for symmetric positive definite M (..., 3, 3)."""
    columns = []
    for index in range(3):
        column = matrices[..., index] * matrices[..., index, index, None].rsqrt()
        columns.append(column)
        matrices = torch.addcmul(matrices, column[..., None], column[..., None, :], value=-1)
    return torch.stack(columns, dim=-1).tril()


def _general_inverse(matrices: Tensor) -> Tensor:
    """Invert matrices (..., 3, 3) by cross products of their rows.

    Unless a matrix is triangular, the error grows with the square of its condition number.
    """
    around = torch.cat([matrices, matrices[..., :2, :]], dim=-2)
    cofactors = torch.linalg.cross(around[..., 1:4, :], around[..., 2:, :])
    determinants = (matrices[..., :1, :] * cofactors[..., :1, :]).sum(dim=-1, keepdim=True)
    inverses: Tensor = cofactors / determinants
    return inverses.mT


def _symmetric(matrices: Tensor) -> Tensor:
    """Remove the asymmetry that rounding leaves in matrices (..., 3, 3)."""
    return (matrices + matrices.mT) / 2
