"""Roots, inverses and geometric means of 3 x 3 matrices, against eigenvalue decompositions."""

import pytest
import torch

from pipeline.style.optimizer import matrices


def positive(condition, seed, count=200):
    """Draw symmetric matrices (count, 3, 3), eigenvalues 1 to ``condition``, and their roots."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 4, generator=generator, dtype=torch.float64)
    vectors, _ = torch.linalg.qr(noise[:, :, :3])
    between = noise[:, 0, 3].sigmoid()
    exponents = torch.stack([torch.zeros(count), between, torch.ones(count)], dim=1).double()
    values = condition**exponents
    made = (vectors @ torch.diag_embed(each) @ vectors.mT for each in (values, values.sqrt()))
    return [(each + each.mT) / 2 for each in made]


def off(found, expected):
    """Return the largest relative error of matrices."""
    errors = (found - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
    return float(errors.max())


def by_eigenvalues(S, Y):
    """Compute the geometric mean of S and Y^-1."""
    values, vectors = torch.linalg.eigh(Y)
    root, unroot = (
        vectors @ torch.diag_embed(each) @ vectors.mT for each in (values.sqrt(), values.rsqrt())
    )
    values, vectors = torch.linalg.eigh(root @ S @ root)
    return unroot @ vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT @ unroot


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6, 1e10, 1e12])
def test_roots_are_those_by_eigenvalues(condition):
    M, expected = positive(condition, 30)
    M, expected = torch.cat([M, 1e-9 * M]), torch.cat([expected, 1e-9**0.5 * expected])
    root, unroot = matrices.roots(M)
    assert off(root, expected) < 1e-15 * (10 + condition**0.5)
    assert off(root @ root, M) < 1e-14
    identity = torch.eye(3, dtype=torch.float64).expand_as(M)
    assert off(root @ unroot, identity) < 1e-15 * (10 + condition**0.5)
    assert off(matrices.inverse(M) @ M, identity) < 1e-15 * (10 + condition)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6, 1e10])
def test_the_geometric_mean_is_that_by_eigenvalues(condition):
    S, Y = positive(condition, 40)[0], 1e-6 * positive(condition, 50)[0]
    R = matrices.geometric_mean(S, Y)
    assert torch.equal(R, R.mT)
    assert off(R @ Y @ R, S) < 1e-15 * (10 + condition)
    if condition <= 1e6:  # beyond it eigenvalues are no longer accurate enough
        assert off(R, by_eigenvalues(S, Y)) < 1e-15 * (100 + condition**2)
