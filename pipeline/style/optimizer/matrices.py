"""Functions of 3 x 3 matrices, many at a time, that a CUDA graph can hold.

PyTorch's own decompositions wait for the device to learn whether they succeeded. These are the same
few operations for whatever matrices; in float64, which is what their accuracy is meant for.
"""

import math

import torch
from torch import Tensor

SPAN = 1e6
"""Of singular values by ``_orthogonal``: greatest over least at most its square."""

NEWTON_STEPS = 8
"""In which all of those become 1, to float64's rounding."""


def inverse(matrices: Tensor) -> Tensor:
    """Of symmetric positive definite matrices (n, 3, 3), in their type."""
    unfactor = _general_inverse(_cholesky(matrices.double()))
    return (unfactor.mT @ unfactor).to(matrices)


def geometric_mean(S: Tensor, Y: Tensor) -> Tensor:
    """The R for which R Y R = S, all of them symmetric positive definite (n, 3, 3).

    R = F U^T G^-1 for the Cholesky factors in S = F F^T and Y = G G^T, and the U that is nearest to
    G^T F of all orthogonal matrices: for G^T F = H U makes R = G^-T H G^-1, which is symmetric.
    """
    of_S, of_Y = _cholesky(torch.stack([S, Y]))
    nearest = _orthogonal(of_Y.mT @ of_S)
    return _symmetric(of_S @ nearest.mT @ _general_inverse(of_Y))


def roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric roots of symmetric positive definite matrices (n, 3, 3), and their inverses:
    the geometric mean with the identity."""
    factor = _cholesky(matrices)
    nearest = _orthogonal(factor)
    return _symmetric(factor @ nearest.mT), _symmetric(nearest @ _general_inverse(factor))


def _orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal U in X = H U, H symmetric positive definite, for X (n, 3, 3).

    Newton's iteration X <- (X + X^-T) / 2 (Higham 1986) keeps U and takes X's singular values to 1:
    quickly those near 1, and far ones by half. So they are brought as near to it as can be before
    each step, of which the first makes values in [1 / SPAN, SPAN] lie in [1, (SPAN + 1 / SPAN) / 2]
    and so on: the factors are known beforehand (Byers and Xu 2008).
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
    """The lower triangular F in M = F F^T for symmetric positive definite M (..., 3, 3)."""
    columns = []
    for index in range(3):
        column = matrices[..., index] * matrices[..., index, index, None].rsqrt()
        columns.append(column)
        matrices = torch.addcmul(matrices, column[..., None], column[..., None, :], value=-1)
    return torch.stack(columns, dim=-1).tril()


def _general_inverse(matrices: Tensor) -> Tensor:
    """Of matrices (..., 3, 3), by cross products of their rows: of those that are not triangular
    with an error that grows as the square of their condition."""
    around = torch.cat([matrices, matrices[..., :2, :]], dim=-2)
    cofactors = torch.linalg.cross(around[..., 1:4, :], around[..., 2:, :])
    determinants = (matrices[..., :1, :] * cofactors[..., :1, :]).sum(dim=-1, keepdim=True)
    inverses: Tensor = cofactors / determinants
    return inverses.mT


def _symmetric(matrices: Tensor) -> Tensor:
    """Without the rounding that makes it unsymmetric."""
    return (matrices + matrices.mT) / 2
