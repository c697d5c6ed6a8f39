"""Bringing weights to a common scale, and drawing random ones.

The paper's authors rescaled VGG-19 "such that the mean activation of each convolutional filter over
images and positions is equal to one" (Gatys et al., CVPR 2016, section 2). ``normalise`` does the
same for any set of weights, so that one alpha and one beta suit them all.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings import CONVS_PER_BLOCK, LAYERS
from pipeline.style.network.calibration import calibration_pictures
from pipeline.style.network.vgg import (
    INPUT_MEAN,
    VGG,
    Padding,
    Pooling,
    StateDict,
    tensor_names,
)

WIDTHS = (64, 128, 256, 512, 512)
"""VGG-19's filters per layer in each block (arXiv 1409.1556, table 1)."""

LEAST_ACTIVATION = 0.25
"""Lower bound on a filter's mean activation, relative to the mean of its layer. It keeps rarely
active filters from being amplified."""


def random_weights(seed: int, widths: tuple[int, ...] = WIDTHS) -> StateDict:
    """Draw untrained weights that transfer style (He, Wang, Hopcroft, arXiv 1606.04801).

    Filters are orthogonal, times sqrt(2). Each bias is set so that its filter is active at half of
    the positions of the calibration pictures. A seed gives the same weights on every machine, up to
    float rounding.

    Args:
        seed: seed of the generator.
        widths: filters per layer in each of the five blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    state: StateDict = {}
    channels = 3
    for width, count, block in zip(widths, CONVS_PER_BLOCK, range(1, 6), strict=True):
        for conv in range(1, count + 1):
            weight_name, bias_name = tensor_names(f"conv{block}_{conv}")
            weight = torch.empty(width, channels, 3, 3)
            torch.nn.init.orthogonal_(weight, gain=math.sqrt(2), generator=generator)
            state[weight_name], state[bias_name] = weight, torch.zeros(width)
            channels = width

    def activate_half(response: Tensor) -> tuple[Tensor, Tensor]:
        median = response.transpose(0, 1).flatten(1).median(dim=1).values
        scale = mean_activation(F.relu(response - median.view(1, -1, 1, 1)))
        return scale, -median

    # Replicated borders, because a frame of zeros would count in every median.
    return _rescale(state, LAYERS[-1], "avg", "replicate", activate_half)


def normalise(
    state: StateDict, deepest_layer: str, pooling: Pooling, padding: Padding
) -> StateDict:
    """Scale each filter to a mean activation of 1 over the calibration pictures.

    Every layer's output is unchanged but for one positive factor per filter: ReLU and pooling are
    positively homogeneous, so the factor is folded into the filter's weight and bias and divided
    out of the next layer's weight.

    Args:
        state: weights under VGG-19's names.
        deepest_layer: the last layer to keep.
        pooling: see ``VGG``.
        padding: see ``VGG``.
    """

    def by_mean(response: Tensor) -> tuple[Tensor, Tensor]:
        scale = mean_activation(F.relu(response))
        return scale, torch.zeros_like(scale)

    return _rescale(state, deepest_layer, pooling, padding, by_mean)


def mean_activation(activation: Tensor) -> Tensor:
    """Average (B, N, H, W) over images and positions to (N,), with a lower bound.

    See ``LEAST_ACTIVATION``.
    """
    mean = activation.mean(dim=(0, 2, 3))
    return mean.clamp_min(max(LEAST_ACTIVATION * float(mean.mean()), 1e-12))


@torch.no_grad()
def _rescale(
    state: StateDict,
    deepest_layer: str,
    pooling: Pooling,
    padding: Padding,
    measure: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> StateDict:
    """Rescale a network layer by layer, from the input upwards.

    Args:
        state: weights under VGG-19's names.
        deepest_layer: the last layer to keep.
        pooling: see ``VGG``.
        padding: see ``VGG``.
        measure: maps a layer's response before the ReLU (B, N, H, W) to the scale (N,) to divide
            by and the shift (N,) to add to its bias.
    """
    result: StateDict = {}
    network = VGG(state, deepest_layer=deepest_layer, pooling=pooling, padding=padding)
    x = network.preprocess(calibration_pictures())
    below = torch.ones(3)
    layers = iter(network.layers)
    for module in network.features:
        if isinstance(module, torch.nn.Conv2d):
            response = module(x)
            scale, shift = measure(response)
            weight_name, bias_name = tensor_names(next(layers))
            fold = below.view(1, -1, 1, 1) / scale.view(-1, 1, 1, 1)
            result[weight_name] = (module.weight * fold).contiguous()
            result[bias_name] = (module.bias + shift) / scale  # type: ignore[operator]
            x = response + shift.view(1, -1, 1, 1)
            below = scale
        else:
            x = module(x)
    return result | {name: state[name] for name in (INPUT_MEAN,) if name in state}
