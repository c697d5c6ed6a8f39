"""Weight files as people have them: other tensor names, VGG-16, Caffe's input."""

import io
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision.models import vgg16

from jobs.train_compact import fitting
from pipeline.settings import LAYERS, StyleSettings, fingerprint, replace
from pipeline.style.network.conventions import VGG16_INDEX
from pipeline.style.network.vgg import CONV_INDEX, VGG
from pipeline.style.network.weight_files import WeightsError, parse_weights
from pipeline.style.network.weights import load_weights
from tests import reference
from tests.conftest import NARROW, picture

VGG16 = tuple(VGG16_INDEX)
FLAT = StyleSettings(content_layers=(), style_layers=("conv1_1",))
ENDINGS = ("", ":torchvision", ":caffe")
DEEP = StyleSettings(style_layers=("conv1_1", "conv3_3", "conv5_3"))


def narrow(layers=LAYERS):
    """Draw each layer's weight and bias (float32) for a narrow network, as trained with Caffe."""
    rng = np.random.default_rng(5)
    tensors, channels = {}, 3
    for layer in layers:
        width = NARROW[int(layer[4]) - 1]
        scale = 0.2 if layer == "conv1_1" else np.sqrt(2 / (9 * channels))
        weight = scale * rng.standard_normal((width, channels, 3, 3))
        bias = np.abs(rng.standard_normal(width))
        tensors[layer] = weight.astype(np.float32), bias.astype(np.float32)
        channels = width
    return tensors


def named(tensors, indices=None):
    """Name the tensors as torchvision does if indices are given, else as the authors do."""
    return {
        f"{f'features.{indices[layer]}' if indices else layer}.{part}": torch.from_numpy(tensor)
        for layer, both in tensors.items()
        for part, tensor in zip(("weight", "bias"), both, strict=True)
    }


@pytest.fixture
def saved(tmp_path):
    def save(state, name="file.safetensors"):
        if name.endswith(".pth"):
            torch.save(state, tmp_path / name)
        else:
            safetensors.torch.save_file(state, tmp_path / name)
        return str(tmp_path / name)

    return save


def network(source):
    state, _ = load_weights(replace(DEEP, weights=source))
    return VGG(state, deepest_layer=DEEP.deepest_layer)


def assert_alike(found, expected):
    """Assert equality at every position, borders included, up to a positive factor per filter."""
    assert found.shape == expected.shape
    for ours, theirs in zip(found.flatten(1).double().numpy(), expected, strict=True):
        factor = (ours @ theirs.ravel()) / max(theirs.ravel() @ theirs.ravel(), 1e-30)
        assert factor > 0 or not theirs.any()
        assert ours == pytest.approx(factor * theirs.ravel(), rel=1e-4, abs=2e-4 * ours.max())


def test_vgg_16s_convolutions_are_torchvisions():
    with torch.device("meta"):
        features = vgg16().features
    convolutions = [index for index, module in enumerate(features) if isinstance(module, nn.Conv2d)]
    assert list(VGG16_INDEX.values()) == convolutions


@pytest.mark.parametrize("names", ["torchvision", "authors"])
def test_vgg_16_is_vgg_19_without_three_layers(saved, names):
    tensors = narrow(VGG16)
    file = saved(named(tensors, VGG16_INDEX if names == "torchvision" else None))
    built = network(f"{file}:torchvision")
    assert built.layers == VGG16[: VGG16.index("conv5_3") + 1]
    image = picture(1, 48, 40)
    x = built.double().preprocess(image[None].double())[0].numpy()
    expected = reference.activations(x, tensors)
    for layer, activation in built.activations(image[None].double()):
        assert_alike(activation[0], expected[layer])


def test_vgg_16_equals_vgg_19_with_identities_in_the_three_layers(saved):
    tensors = narrow(VGG16)
    full = {}
    for layer in LAYERS:
        width = NARROW[int(layer[4]) - 1]
        identity = np.zeros((width, width, 3, 3), np.float32)
        identity[range(width), range(width), 1, 1] = 1
        full[layer] = tensors.get(layer, (identity, np.zeros(width, np.float32)))
    as_16 = network(saved(named(tensors, VGG16_INDEX), "16.pth") + ":torchvision")
    as_19 = network(saved(named(full, CONV_INDEX), "19.pth") + ":torchvision")
    image = picture(2, 48, 48)[None]
    for layer, activation in as_16(image, VGG16).items():
        assert torch.allclose(activation, as_19(image, [layer])[layer], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", [LAYERS, VGG16], ids=["19", "16"])
@pytest.mark.parametrize("names", ["torchvision", "authors"])
def test_caffe_networks_see_their_own_input_at_the_borders_too(saved, names, layers):
    tensors = narrow(layers)
    if names == "torchvision":
        source = saved(named(tensors, CONV_INDEX if layers == LAYERS else VGG16_INDEX)) + ":caffe"
    else:
        source = saved(named(tensors), "vgg_conv.pth")
    built = network(source).double()
    image = picture(3, 32, 40).double()
    expected = reference.caffe(image.numpy(), tensors)
    for layer, activation in built.activations(image[None]):
        assert_alike(activation[0], expected[layer])


def test_only_caffes_convention_changes_the_digest(saved):
    file = saved(named(narrow(), CONV_INDEX))
    digests = [load_weights(replace(FLAT, weights=file + end))[1] for end in ENDINGS]
    assert digests[0] == digests[1] != digests[2]
    assert fingerprint(FLAT, digests[0]) != fingerprint(FLAT, digests[2])
    as_authors = saved(named(narrow()), "vgg_conv.pth")
    digests = [load_weights(replace(FLAT, weights=as_authors + end))[1] for end in ENDINGS]
    assert digests[0] == digests[2] != digests[1]


CAFFE, CONVERTED, TORCHVISION = (0.2, 0.7, 0.5), (12, 0.7, 0.5), (0.26, 0.5, -0.07)
"""conv1_1 in a Caffe file, in one converted to torchvision's input and in torchvision's own: root
mean square of the weights, root mean square of the biases, mean of the biases."""


@pytest.mark.parametrize(
    ("statistics", "ending", "warning"),
    [
        (CAFFE, "", "look like Caffe's"),
        (CAFFE, ":caffe", None),
        (CAFFE, ":torchvision", None),
        (CONVERTED, "", None),
        (CONVERTED, ":caffe", "do not look like Caffe's"),
        (TORCHVISION, "", None),
        (TORCHVISION, ":caffe", "do not look like Caffe's"),
    ],
)
def test_a_wrong_convention_gives_one_line_of_warning(saved, caplog, statistics, ending, warning):
    size, spread, mean = statistics
    rng = np.random.default_rng(0)
    tensors = narrow(("conv1_1",))
    shape = (16, 3, 3, 3)
    bias = mean + np.sqrt(spread**2 - mean**2) * rng.standard_normal(16)
    tensors["conv1_1"] = (size * rng.standard_normal(shape)).astype("f4"), bias.astype("f4")
    file = saved(named(tensors, CONV_INDEX))
    with caplog.at_level(logging.WARNING):
        load_weights(replace(FLAT, weights=file + ending))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(warning)
    assert all(file in line and warning in line and "\n" not in line for line in lines)


def test_authors_names_with_another_input_give_a_warning(saved, caplog):
    tensors = narrow()
    tensors["conv1_1"] = tensors["conv1_1"][0], -tensors["conv1_1"][1]
    load_weights(replace(FLAT, weights=saved(named(tensors))))
    assert "write" in caplog.text
    assert ":torchvision if they are not" in caplog.text


@pytest.mark.parametrize("built_in", ["compact:caffe", "random:torchvision"])
def test_built_in_weights_take_no_convention(built_in):
    with pytest.raises(WeightsError, match=f"weights {built_in[:6]}.*cannot be read"):
        load_weights(StyleSettings(weights=built_in))


@pytest.mark.parametrize(
    ("layers", "indices", "change", "message"),
    [
        (
            VGG16,
            VGG16_INDEX,
            {"features.17.bias": None},
            r"'features.17.bias' \(conv4_1\) is missi",
        ),
        (VGG16, VGG16_INDEX, {"features.24.weight": None}, r"24.weight' \(conv5_1\) is missing"),
        (
            VGG16,
            VGG16_INDEX,
            {"features.16.bias": torch.zeros(1)},
            r"features.\d+.* is not one of VGG-19's",
        ),
        (VGG16, VGG16_INDEX, {"features.99.bias": torch.zeros(1)}, "99.* is not one of VGG-16's"),
        (LAYERS, None, {"conv4_1.weight": None}, r"'conv4_1.weight' \(conv4_1\) is missing"),
        (LAYERS, None, {"conv4_1.bias": torch.zeros(2)}, r"'conv4_1.bias' .* shape \(2,\); exp"),
        (LAYERS, None, {"conv2_1.bias": torch.full((6,), torch.nan)}, "'conv2_1.bias'.*not finite"),
        (LAYERS, None, {"conv2_3.bias": torch.zeros(6)}, "'conv2_3.bias' is not one of VGG-19"),
    ],
)
def test_the_wrong_tensor_has_its_name_from_the_file(saved, layers, indices, change, message):
    state = {k: t for k, t in {**named(narrow(layers), indices), **change}.items() if t is not None}
    with pytest.raises(WeightsError, match=rf"weights .*file.safetensors: .*{message}") as found:
        load_weights(replace(DEEP, weights=saved(state)))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("layer", ["conv3_4", "conv4_4", "conv5_4"])
def test_layers_that_vgg_16_lacks_are_refused(saved, layer):
    settings = replace(DEEP, content_layers=(layer,), weights=saved(named(narrow(VGG16))))
    with pytest.raises(WeightsError, match=f"this is a VGG-16, which has no {layer}; choose other"):
        load_weights(settings)


def test_a_file_whose_keys_are_not_strings_is_refused():
    buffer = io.BytesIO()
    torch.save({0: torch.zeros(1)}, buffer)
    with pytest.raises(WeightsError, match=r"x\.pth: not a plain dictionary"):
        parse_weights(buffer.getvalue(), "x.pth")


def test_teachers_are_read_in_every_form(saved):
    file = saved(named(narrow(VGG16), VGG16_INDEX))
    state, deepest, padding = fitting.read_teacher(f"{file}:caffe:reflect")
    assert (deepest, padding) == ("conv5_1", "reflect")
    image = picture(3, 32, 32).double()
    expected = reference.caffe(image.numpy(), narrow(VGG16))
    found = VGG(state, deepest_layer="conv1_1").double()(image[None], ["conv1_1"])["conv1_1"]
    assert found[0].numpy() == pytest.approx(expected["conv1_1"], rel=1e-5, abs=1e-4)
