import pytest
import torch
from torch import nn
from torchvision.models import vgg19

from pipeline.settings import LAYERS
from pipeline.style.network.vgg import CONV_INDEX, VGG
from tests import reference
from tests.conftest import picture


def test_layers_are_torchvisions_convolutions():
    with torch.device("meta"):
        features = vgg19().features
    convolutions = [index for index, module in enumerate(features) if isinstance(module, nn.Conv2d)]
    assert [CONV_INDEX[layer] for layer in LAYERS] == convolutions


def test_activations_are_the_references(narrow_state):
    network = VGG(narrow_state, deepest_layer="conv5_4").double()
    image = picture(0, 40, 56).double()
    found = network(image[None], LAYERS)
    state = {name: tensor.double().numpy() for name, tensor in narrow_state.items()}
    expected = reference.vgg19(image.numpy(), state)
    assert list(expected) == list(LAYERS)
    for layer in LAYERS:
        assert found[layer].shape[1:] == expected[layer].shape
        assert found[layer][0].numpy() == pytest.approx(expected[layer], rel=1e-6, abs=1e-9)


def test_full_width_activations_are_torchvisions():
    model = vgg19(weights=None).eval()
    state = {k: v for k, v in model.state_dict().items() if k.startswith("features.")}
    network = VGG(state, deepest_layer="conv3_2", pooling="max")
    image = picture(1, 32, 32)[None]
    x = network.preprocess(image)
    with torch.no_grad():
        for module in model.features[: CONV_INDEX["conv3_2"] + 2]:
            x = module(x)
        assert torch.allclose(network(image, ["conv3_2"])["conv3_2"], x, atol=1e-6)


def test_network_is_cut_frozen_and_pools_by_average(narrow_state):
    network = VGG(narrow_state, deepest_layer="conv3_1")
    assert network.layers[-1] == "conv3_1"
    assert sum(isinstance(module, nn.Conv2d) for module in network.features) == 5
    assert not any(isinstance(module, nn.MaxPool2d) for module in network.features)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
def test_padding_keeps_the_size(narrow_state, padding):
    network = VGG(narrow_state, deepest_layer="conv5_1", padding=padding)
    assert network(picture(2, 48, 32)[None], ["conv5_1"])["conv5_1"].shape == (1, 8, 3, 2)
