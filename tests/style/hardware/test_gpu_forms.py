"""The forms of computation that only a GPU uses, checked on a CPU in float64. See test_cuda.py."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.settings import StyleSettings
from pipeline.style.hardware import pooling, products
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_target
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG, align_input
from pipeline.style.optimizer.lbfgs import LBFGS
from tests.conftest import NARROW, picture
from tests.style.network.plain_weights import equal_weights


def network_of():
    return VGG(random_weights(7, NARROW), deepest_layer="conv5_1").double()


def evaluated(network):
    """Return the loss and gradient of a pair."""
    settings = StyleSettings(scales=1)
    content, style, image = (picture(seed, 48, 64).double() for seed in range(3))
    made = Objective(network, 1, settings)
    made.put(0, content, style_target(network, style, settings), equal_weights(1e-3))
    return made(image[None])


@pytest.mark.parametrize("slots", [1, 3])
def test_pooling_by_fours_and_its_adjoint(slots):
    block = network_of().blocks[0]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(slots, 4, 6, 10, generator=generator, dtype=torch.float64).relu()
    gradient = torch.randn(slots, 4, 3, 5, generator=generator, dtype=torch.float64)
    x, gradient = (each.to(memory_format=torch.channels_last) for each in (x, gradient))
    assert torch.allclose(pooling.mean_of_fours(x), F.avg_pool2d(x, 2))
    two_passes = torch.where(x > 0, pooling.pool_backward(block, x, gradient), 0)
    found = pooling.relu_mean_backward(x, gradient)
    assert torch.equal(found, two_passes)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_an_objective_by_fours_is_the_same(monkeypatch):
    expected = evaluated(network_of())
    monkeypatch.setattr(pooling, "by_fours", lambda block, x: True)
    for found, value in zip(evaluated(network_of()), expected, strict=True):
        assert torch.allclose(found, value, rtol=1e-9, atol=1e-15)


def test_more_input_channels_of_zeros_change_nothing():
    expected, aligned = evaluated(network_of()), network_of()
    align_input(aligned)
    assert aligned.preprocess(torch.rand(1, 3, 4, 4)).shape[1] == 8
    found = evaluated(aligned)
    assert found[1].shape[1] == 3
    for value, other in zip(found, expected, strict=True):
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("parts", [1, 4, 24])
def test_a_gram_matrix_in_parts(parts):
    rows = torch.randn(2, 24, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.allclose(products.gram_in_parts(rows, parts), rows.mT @ rows)


def test_inner_products_in_parts():
    scale = torch.logspace(-1, 1, 12, dtype=torch.float64).expand(3, 12)
    start = torch.randn(3, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole, parted = (LBFGS(start, first_step=0.1) for _ in range(2))
    parted.history.parts = 4
    for _ in range(15):
        for solver in (whole, parted):
            value = 0.5 * (scale * solver.x.square()).sum(1)
            solver.step(value, scale * solver.x, torch.ones(3) > 0)
        assert torch.allclose(whole.x, parted.x, rtol=1e-9, atol=1e-12)


def test_an_evaluation_is_stored_without_asking_the_device(monkeypatch):
    """A slot that meets values that are not finite stores nothing."""
    start = torch.rand(2, 12, generator=torch.Generator().manual_seed(4))
    asking, masked = (LBFGS(start, first_step=0.1, bounds=(0.0, 1.0)) for _ in range(2))
    monkeypatch.setattr(masked.history, "_write_one_by_one", masked.history._write_masked)
    for at in range(8):
        for solver in (asking, masked):
            gradient = solver.x - 0.5
            gradient[1, 3] += torch.nan if at == 4 else 0
            loss = 0.5 * gradient.square().sum(dim=1)
            solver.step(loss, gradient, torch.ones(2) > 0, 0.7 * gradient)
        for name in ("basis", "differences", "SY", "YY", "pairs"):
            found, expected = (getattr(each.history, name) for each in (asking, masked))
            assert torch.equal(found, expected), name
        assert torch.equal(asking.x, masked.x)
        assert torch.equal(asking.accepted, masked.accepted)


def half_objective(weight):
    """Return an objective in float16, and an image to evaluate it at."""
    settings = StyleSettings(scales=1)
    content, style, image = (picture(seed, 48, 64) for seed in range(3))
    network = VGG(random_weights(7, NARROW), deepest_layer="conv5_1")
    target = style_target(network, style, settings)
    network.features.half()
    made = Objective(network, 1, settings)
    made.put(0, content, target, equal_weights(1e-3 * weight, weight))
    return made, image[None]


@pytest.mark.parametrize("weight", [2.0**-40, 2.0**40])
def test_gradients_in_float16_are_scaled_into_its_range(weight):
    """Without scaling all would be 0 with the smallest weight and infinite with the largest."""
    plain, image = half_objective(1.0)
    other, _ = half_objective(weight)
    for _ in range(2):  # the second uses the scale that the first has found
        gradient = plain(image)[1]
        assert gradient.isfinite().all()
        assert torch.equal(other(image)[1], gradient * weight)
        assert (other.scale.factor.log2() % 1 == 0).all()


def test_a_wrong_scale_is_corrected():
    made, image = half_objective(1.0)
    plain, _ = half_objective(1.0)
    expected = [plain(image)[1] for _ in range(2)][-1]
    for times in (2.0**40, 2.0**60, 2.0**-60):  # the last is too small and leaves zeros
        made.scale.factor *= times
        found = [made(image)[1] for _ in range(10)]
        assert not torch.allclose(found[0], expected, rtol=0.01, atol=0)
        for gradient in found[-2:]:
            assert (gradient - expected).norm() < 0.01 * expected.norm()
