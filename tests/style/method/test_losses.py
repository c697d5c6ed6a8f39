"""Equations 1 to 7 against the reference, autograd, and the forms that the optimiser runs."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.style.method.balance import loss_weights
from pipeline.style.method.losses import (
    add_content_gradient,
    add_style_gradient,
    add_tv_gradient,
    content_gradient,
    content_loss,
    gram_matrix,
    layer_style_gradient,
    layer_style_loss,
    style_loss,
    total_loss,
    tv_loss,
)
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_target
from pipeline.style.network.weights import load_network
from tests import reference
from tests.conftest import picture


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 5, 4, 6, generator=generator, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def features():
    return drawn(0)


@pytest.fixture
def others():
    return drawn(1)


def flat(tensor, sample):
    return tensor[sample].flatten(1).numpy()


def test_losses_are_the_papers_sample_by_sample(features, others):
    A = gram_matrix(others)
    for b in range(3):
        F, P = flat(features, b), flat(others, b)
        assert np.allclose(gram_matrix(features)[b].numpy(), reference.gram(F), rtol=1e-12)
        content = float(content_loss(features, others)[b])
        assert content == pytest.approx(reference.content(F, P), rel=1e-12)
        style = float(layer_style_loss(features, A)[b])
        assert style == pytest.approx(reference.style_layer(F, A[b].numpy()), rel=1e-12)


def test_gradients_are_the_papers(features, others):
    leaf = features.clone().requires_grad_(True)
    F = torch.relu(leaf - 0.5)  # the ReLU's backward pass gives the paper's "0 if F_ij < 0"
    A = gram_matrix(others)
    (style,) = torch.autograd.grad(layer_style_loss(F, A).sum(), leaf, retain_graph=True)
    (content,) = torch.autograd.grad(content_loss(F, others).sum(), leaf)
    F = F.detach()
    assert (F == 0).any()
    assert torch.allclose(layer_style_gradient(F, A), style, rtol=1e-12)
    assert torch.allclose(content_gradient(F, others), content, rtol=1e-12)
    for b in range(3):
        f = flat(F, b)
        assert np.allclose(flat(style, b), reference.style_layer_gradient(f, A[b].numpy()))
        assert np.allclose(flat(content, b), reference.content_gradient(f, flat(others, b)))


def test_what_the_optimiser_runs_are_the_plain_losses_and_gradients(features, others):
    """Weighted, added to the gradient of the layers above, and rectified."""
    F, P, above = (features - 0.5).relu(), others, drawn(2) - 0.5
    A, M = gram_matrix(others), 4 * 6
    alpha, beta_w = (torch.tensor(values, dtype=torch.float64) for values in ([1, 0, 3], [4, 5, 0]))
    gradient = above.clone()
    L_content = add_content_gradient(F, P, alpha, gradient)
    E, gradient = add_style_gradient(F, A / M, beta_w, gradient)
    assert torch.allclose(L_content, content_loss(F, P), rtol=1e-12)
    assert torch.allclose(E, layer_style_loss(F, A), rtol=1e-12)
    expected = (
        torch.where(F > 0, above, 0)
        + alpha.view(-1, 1, 1, 1) * content_gradient(F, P)
        + beta_w.view(-1, 1, 1, 1) * layer_style_gradient(F, A)
    )
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-15)


def test_gradcheck(features, others):
    F = features.requires_grad_(True)
    A = gram_matrix(others)
    assert torch.autograd.gradcheck(lambda f: layer_style_loss(f, A), F)
    assert torch.autograd.gradcheck(lambda f: content_loss(f, others), F)
    assert torch.autograd.gradcheck(gram_matrix, F)
    assert torch.autograd.gradcheck(tv_loss, F)
    (expected,) = torch.autograd.grad(tv_loss(F).sum(), F)
    weight, before = torch.arange(3.0, dtype=torch.float64), torch.ones_like(others)
    gradient = before.clone()
    loss = add_tv_gradient(F.detach(), weight, gradient)
    assert torch.allclose(loss, tv_loss(F), rtol=1e-12)
    expected = before + weight.view(-1, 1, 1, 1) * expected
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-12)


def test_the_objective_is_equation_7_and_its_gradient_is_autograds(quick):
    settings = dataclasses.replace(quick, content_weight=0.3, style_weight=7.0, tv_weight=0.0)
    network = load_network(settings).double()
    content_image, style_image, image = (picture(seed, 48, 64).double() for seed in range(3))
    target = style_target(network, style_image, settings)
    weights = loss_weights(network, content_image, target, settings)
    objective = Objective(network, 1, settings)
    objective.put(0, content_image, target, weights)
    loss, gradient = objective(image[None])

    leaf = image[None].clone().requires_grad_(True)
    F = network(leaf, {*settings.content_layers, *settings.style_layers})
    P = network(content_image[None], settings.content_layers)
    A = {
        layer: gram_matrix(features)
        for layer, features in network(style_image[None], settings.style_layers).items()
    }
    L_content = sum(content_loss(F[layer], P[layer]) for layer in P)
    L_style = style_loss({layer: layer_style_loss(F[layer], A[layer]) for layer in A}, weights.w)
    expected = total_loss(L_content, L_style, weights.alpha, weights.beta)
    (autograds,) = torch.autograd.grad(expected.sum(), leaf)
    L_content, L_style, expected = (each.detach() for each in (L_content, L_style, expected))
    assert torch.allclose(loss, expected, rtol=1e-9)
    assert torch.allclose(gradient, autograds, rtol=1e-7, atol=1e-12)

    terms = objective.terms(0, image)
    assert terms.content == pytest.approx(weights.alpha * float(L_content), rel=1e-9)
    assert terms.style == pytest.approx(weights.beta * float(L_style), rel=1e-9)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    in_numpy = reference.total(
        image.numpy(), content_image.numpy(), style_image.numpy(), state,
        weights.alpha, weights.beta, weights.w, settings.content_layers,
    )  # fmt: skip
    assert float(expected) == pytest.approx(in_numpy, rel=1e-9)


def test_total_variation_counts_each_neighbour_once():
    image = torch.zeros(1, 1, 2, 3)
    image[0, 0, 0, 0] = 2.0
    assert float(tv_loss(image)) == 8.0


def test_half_precision_features_do_not_overflow():
    F = torch.full((1, 2, 64, 64), 100.0, dtype=torch.float16)
    G = gram_matrix(F)
    assert G.dtype == torch.float32
    assert float(G[0, 0, 0]) == pytest.approx(100.0**2 * 64 * 64)
    assert torch.isfinite(layer_style_loss(F, torch.zeros_like(G))).all()
