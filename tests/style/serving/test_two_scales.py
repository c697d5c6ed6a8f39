"""A run of two scales, values and all, against a plain one written here: autograd, one image.

It shares with the product the network's layers, the Gram matrix and L-BFGS; not the weights of the
losses, the scales, the start, nor what is carried from one scale to the next.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from pipeline.style.method.losses import gram_matrix
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch
from pipeline.style.optimizer.lbfgs import LBFGS
from tests.conftest import picture

EVALUATIONS = 5
"""Evaluations at each scale: few enough that rounding is not amplified."""


def smaller(image, size):
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)


def plain_scale(network, content, style, start, settings):
    """Five evaluations at one size, from ``start``. Images (1, 3, H, W)."""
    layers = settings.style_layers
    P = network(content, ["conv4_2"])["conv4_2"]
    A = {k: gram_matrix(S) / S[0, 0].numel() for k, S in network(style, layers).items()}

    def losses_of(F_l):
        return {
            k: (gram_matrix(F_l[k]) / F_l[k][0, 0].numel() - A[k]).square().sum()
            / (4 * F_l[k].shape[1] ** 2)
            for k in layers
        }  # fmt: skip

    begun = losses_of(network(content, layers))
    alpha = settings.content_weight / (0.5 * P.square().sum())
    tv = settings.tv_weight / content.numel()

    def loss_and_gradient(x):
        x = x.detach().requires_grad_(True)
        F_l = network(x, {*layers, "conv4_2"})
        loss = alpha * 0.5 * (F_l["conv4_2"] - P).square().sum()
        loss = loss + sum(found / begun[k] / 5 for k, found in losses_of(F_l).items())
        loss = loss + tv * (x[..., 1:] - x[..., :-1]).square().sum()
        loss = loss + tv * (x[..., 1:, :] - x[..., :-1, :]).square().sum()
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach()[None], gradient.flatten(1)

    if settings.optimizer == "adam":
        return plain_adam(loss_and_gradient, start, settings.learning_rate / 255)
    solver = LBFGS(start.flatten(1), first_step=settings.first_step / 255, bounds=(0, 1))
    trace = []
    for _ in range(EVALUATIONS):
        loss, gradient = loss_and_gradient(solver.x.view(start.shape))
        trace.append(float(loss))
        solver.step(loss, gradient, torch.ones(1, dtype=torch.bool))
    return solver.accepted.view(start.shape), trace


def plain_adam(loss_and_gradient, start, rate):
    """Five evaluations of torch's own Adam; the result is the last image that was evaluated."""
    x = start.clone().requires_grad_(True)
    solver, trace = torch.optim.Adam([x], lr=rate), []
    for _ in range(EVALUATIONS):
        evaluated = x.detach().clone()
        loss, gradient = loss_and_gradient(evaluated)
        trace.append(float(loss))
        x.grad = gradient.view(start.shape)
        solver.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return evaluated, trace


def in_its_colors(content, style):
    """Content (1, 3, H, W) with mean and covariance of the style's colours."""
    c, s = content[0].flatten(1), style[0].flatten(1)
    center = c.mean(1, keepdim=True)

    def power(x, p):
        values, vectors = torch.linalg.eigh(torch.cov(x, correction=0) + 1e-8 * torch.eye(3))
        return (
            vectors @ torch.diag(values.clamp_min((4 / 255) ** 2 if p < 0 else 0) ** p) @ vectors.T
        )

    moved = power(s, 0.5) @ power(c, -0.5) @ (c - center) + s.mean(1, keepdim=True)
    return moved.view(content.shape).clamp(0, 1)


@pytest.mark.usefixtures("small_scales")
@pytest.mark.parametrize(
    ("init_image", "optimizer"),
    [("recolored", "lbfgs"), ("content", "lbfgs"), ("content", "adam"), ("noise", "lbfgs")],
)
def test_a_run_of_two_scales_is_the_plain_one(quick, init_image, optimizer):
    settings = dataclasses.replace(
        quick, scales=2, iterations=2 * EVALUATIONS, tolerance=0.0, init_image=init_image,
        optimizer=optimizer, spectral_exponent=0.0, color_preconditioner=False,
        learn_preconditioner=False, content_weight=0.5,
    )  # fmt: skip
    network = load_network(settings).double()
    content, style = picture(0, 128, 160).double()[None], picture(5, 192, 128).double()[None]
    (found,), (history,) = stylize_batch(content, style, settings, network=network)

    coarse_content, coarse_style = smaller(content, (64, 80)), smaller(style, (96, 64))
    coarse_content, coarse_style = coarse_content.clamp(0, 1), coarse_style.clamp(0, 1)
    start = in_its_colors(coarse_content, coarse_style)
    start = coarse_content if init_image == "content" else start
    if init_image == "noise":
        noise = torch.randn(3, 64, 80, generator=torch.Generator().manual_seed(settings.seed))
        start = (0.5 + 0.25 * noise).clamp(0, 1).double()[None]
    coarse, first = plain_scale(network, coarse_content, coarse_style, start, settings)
    carried = content + smaller(coarse - coarse_content, (128, 160))
    if init_image == "noise":  # it shows nothing of the content image's detail
        carried = smaller(coarse, (128, 160))
    carried = carried.clamp(0, 1)
    fine, second = plain_scale(network, content, style, carried, settings)
    assert history.total == pytest.approx(first + second, rel=1e-5)
    assert torch.allclose(found, fine[0], atol=1e-4)
    assert first[-1] < first[0]
