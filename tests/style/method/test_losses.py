import numpy as np
import pytest
import torch

from pipeline.style.method.losses import content_loss, gram_matrix, style_loss, tv_loss
from tests import reference


@pytest.fixture
def features():
    return torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def others():
    return torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def flat(tensor, sample):
    return tensor[sample].flatten(1).numpy()


def test_losses_are_the_papers_sample_by_sample(features, others):
    A = gram_matrix(others)
    for b in range(3):
        F, P = flat(features, b), flat(others, b)
        assert np.allclose(gram_matrix(features)[b].numpy(), reference.gram(F), rtol=1e-12)
        content = float(content_loss(features, others)[b])
        assert content == pytest.approx(reference.content(F, P), rel=1e-12)
        style = float(style_loss(features, A)[b])
        assert style == pytest.approx(reference.style_layer(F, A[b].numpy()), rel=1e-12)


def test_gradients_are_the_papers(features, others):
    leaf = features.clone().requires_grad_(True)
    F = torch.relu(leaf - 0.5)  # the paper's "0 if F_ij < 0" is the ReLU's own backward
    A = gram_matrix(others)
    (style,) = torch.autograd.grad(style_loss(F, A).sum(), leaf, retain_graph=True)
    (content,) = torch.autograd.grad(content_loss(F, others).sum(), leaf)
    for b in range(3):
        f = flat(F.detach(), b)
        assert np.allclose(flat(style, b), reference.style_layer_gradient(f, A[b].numpy()))
        assert np.allclose(flat(content, b), reference.content_gradient(f, flat(others, b)))


def test_gradcheck(features, others):
    F = features.requires_grad_(True)
    A = gram_matrix(others)
    assert torch.autograd.gradcheck(lambda f: style_loss(f, A), F)
    assert torch.autograd.gradcheck(lambda f: content_loss(f, others), F)
    assert torch.autograd.gradcheck(gram_matrix, F)
    assert torch.autograd.gradcheck(tv_loss, F)


def test_total_variation_counts_each_neighbour_once():
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0, 0, 0] = 2.0
    assert float(tv_loss(image)) == 8.0


def test_half_precision_features_do_not_overflow():
    F = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16)
    G = gram_matrix(F)
    assert G.dtype == torch.float32
    assert float(G[0, 0, 0]) == pytest.approx(100.0**2 * 64 * 64)
    assert torch.isfinite(style_loss(F, torch.zeros_like(G))).all()
