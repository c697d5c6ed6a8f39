"""Winograd's and oneDNN's convolutions against PyTorch's own."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.settings import StyleSettings
from pipeline.style.hardware import convolution, winograd
from pipeline.style.hardware.convolution import activate, convolve, convolve_back
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_target
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG
from tests.style.network.plain_weights import equal_weights


def conv_of(C: int, N: int, padding: str, dtype: torch.dtype) -> nn.Conv2d:
    torch.manual_seed(5)
    conv = nn.Conv2d(C, N, 3, padding=1, padding_mode=padding, dtype=dtype)
    return conv.requires_grad_(False)


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 13, 22), (3, 30, 17)])
def test_it_equals_the_direct_convolution_and_its_adjoint(padding, shape):
    B, H, W = shape
    conv = conv_of(7, 5, padding, torch.float64)
    fast = winograd.transform(conv.weight)
    x = torch.randn(B, 7, H, W, dtype=torch.float64).to(memory_format=torch.channels_last)
    g = torch.randn(B, 5, H, W, dtype=torch.float64).to(memory_format=torch.channels_last)
    assert winograd.pays(x)
    direct = convolve(conv, x)
    torch.testing.assert_close(convolve(conv, x, fast), direct, rtol=1e-10, atol=1e-10)
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(conv(leaf), leaf, g)
    for back in (convolve_back(conv, x, g), convolve_back(conv, x, g, fast)):
        torch.testing.assert_close(back, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_bias_and_relu_in_one_kernel(monkeypatch, padding, dtype):
    conv = conv_of(7, 12, padding, dtype)
    x = torch.randn(2, 7, 9, 14).to(dtype, memory_format=torch.channels_last)
    in_one = activate(conv, x)
    assert in_one.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(convolution, "_kernel", lambda conv, x: None)
    in_two = activate(conv, x)
    assert (in_two > 0).any()
    assert (in_two == 0).any()
    torch.testing.assert_close(in_one, in_two)


def test_it_is_one_kernel_where_pytorch_has_onednn(monkeypatch):
    conv, x = conv_of(3, 5, "zeros", torch.float32), torch.zeros(1, 3, 8, 8)
    able = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    assert (convolution._kernel(conv, x) is not None) == able
    assert convolution._kernel(conv, x.double()) is None
    convolution._is_able.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", object())  # a build without it
    assert convolution._kernel(conv, x) is None
    convolution._is_able.cache_clear()


def test_pytorchs_newer_switch_says_whether_convolutions_are_in_tf32():
    """Once it is set, the older switch can no longer be read."""
    code = (
        "import torch\n"
        "from pipeline.style.hardware.convolution import in_tf32\n"
        "said = [in_tf32()]\n"
        "for kind in ('ieee', 'tf32'):\n"
        "    torch.backends.cudnn.conv.fp32_precision = kind\n"
        "    said.append(in_tf32())\n"
        "print(said)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[True, False, True]\n"


def test_bands_are_seamless(monkeypatch):
    conv = conv_of(4, 4, "zeros", torch.float64)
    x = torch.randn(2, 4, 41, 37, dtype=torch.float64)
    whole = winograd.correlate(x, winograd.transform(conv.weight).forward, padding=1)
    monkeypatch.setattr(winograd, "BAND", 30)
    parts = winograd.correlate(x, winograd.transform(conv.weight).forward, padding=1)
    # Not to the bit: a library may add up matrix products of another size in another order.
    assert torch.allclose(whole, parts, rtol=1e-12, atol=1e-12)
    assert whole.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("filters", [80, 256])
def test_in_float32_it_rounds_little_more_than_the_direct_convolution(filters):
    conv = conv_of(filters, filters, "zeros", torch.float32)
    x = torch.rand(1, filters, 32, 32)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    found = convolve(conv, x, winograd.transform(conv.weight))
    assert (found - exact).norm() < 3e-6 * exact.norm()


def test_few_tiles_or_few_filters_are_convolved_directly():
    network = VGG(random_weights(1, (4, 4, 80, 8, 4)), deepest_layer="conv5_1")
    fast = winograd.transforms(network)
    assert list(fast) == ["conv3_2", "conv3_3", "conv3_4"]
    assert fast is winograd.transforms(network)
    assert not winograd.pays(torch.zeros(1, 1, 12, 20))
    assert not winograd.transforms(network.to(torch.bfloat16))


def test_the_objective_is_the_same_with_and_without_it():
    network = VGG(random_weights(2, (4, 4, 256, 8, 4)), deepest_layer="conv5_1")
    settings = StyleSettings(content_weight=1e-3)
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    target = style_target(network, images[1], settings)
    objective = Objective(network, 1, settings)
    objective.put(0, images[0], target, equal_weights(1e-3))
    assert objective.fast
    loss, gradient = objective(images[2:])
    objective.fast = {}
    direct_loss, direct = objective(images[2:])
    torch.testing.assert_close(loss, direct_loss, rtol=1e-5, atol=0)
    # A single ReLU whose input rounds to the other side of zero makes a difference of 2e-3.
    assert (gradient - direct).norm() < 1e-2 * direct.norm()
