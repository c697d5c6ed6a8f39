"""Random weights, and weights brought to a common scale."""

import pytest
import torch

from pipeline.settings import LAYERS
from pipeline.style.network.calibration import calibration_pictures
from pipeline.style.network.rescaling import normalise, random_weights
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weight_files import check_weights
from tests.conftest import NARROW, picture


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (random_weights(seed, NARROW) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])
    torch.manual_seed(5)  # the global generator must not matter
    assert torch.equal(random_weights(0, NARROW)["features.0.weight"], first["features.0.weight"])


def test_random_weights_are_vgg19s_shape():
    state = random_weights(0)
    assert state["features.28.weight"].shape == (512, 512, 3, 3)
    check_weights(state, "conv5_4", "random")


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_normalising_scales_each_filter_by_one_positive_factor(narrow_state, pooling):
    generator = torch.Generator().manual_seed(3)
    raw = {
        key: tensor
        * (1 + 9 * torch.rand(len(tensor), generator=generator).view(-1, *[1] * (tensor.ndim - 1)))
        for key, tensor in narrow_state.items()
    }
    state = normalise(raw, "conv5_4", pooling, "zeros")
    options = {"deepest_layer": "conv5_4", "pooling": pooling}
    image = picture(4, 64, 64)[None]
    before, after = VGG(raw, **options)(image, LAYERS), VGG(state, **options)(image, LAYERS)
    for layer in LAYERS:
        old, new = (found[layer].transpose(0, 1).flatten(1) for found in (before, after))
        factor = (old * new).sum(1, keepdim=True) / (old * old).sum(1, keepdim=True).clamp_min(
            1e-30
        )
        assert (factor >= 0).all()
        assert torch.allclose(new, factor * old, rtol=1e-3, atol=1e-4 * float(new.max()))


def test_normalised_filters_have_mean_one_over_the_calibration_pictures(narrow_state):
    state = normalise(narrow_state, "conv5_1", "avg", "zeros")
    network = VGG(state, deepest_layer="conv5_1")
    pictures = calibration_pictures()
    for layer, activation in network(pictures, ["conv1_1", "conv3_1", "conv5_1"]).items():
        mean = activation.mean(dim=(0, 2, 3))
        # All but rarely active filters.
        assert ((mean - 1).abs() < 1e-3).float().mean() > 0.7, layer
        assert (mean < 1.001).all()


def test_a_filter_that_is_never_active_stays_finite(narrow_state):
    dead = {**narrow_state, "features.0.bias": torch.full((4,), -100.0)}
    state = normalise(dead, "conv2_1", "avg", "zeros")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
