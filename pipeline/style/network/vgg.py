"""VGG-19's convolutions as a feature extractor.

Source: Simonyan and Zisserman, arXiv 1409.1556 (the network); Gatys, Ecker, Bethge, arXiv
1508.06576 (no fully connected layers, average in place of max pooling). Layers are numbered as
torchvision's are, without its import, which takes as long as torch's own; a state dict with fewer
filters per layer gives a narrower network of the same form.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.settings import CONVS_PER_BLOCK, LAYERS

StateDict = dict[str, Tensor]
Pooling = Literal["avg", "max"]
Padding = Literal["zeros", "replicate", "reflect"]

ALIGNED = 8
"""Channels of 16 bits that a GPU's matrix units take at once; of three they make slow work."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INPUT_MEAN = "input.mean"
"""Name in a state dict: the mean that the network wants taken off, if not ``IMAGENET_MEAN``."""

ABSENT_FROM_VGG16 = ("conv3_4", "conv4_4", "conv5_4")


def conv_indices(convs_per_block: Sequence[int]) -> dict[str, int]:
    """Layer name to index N of its convolution ``features.N`` in torchvision's networks."""
    indices, index = {}, 0
    for block, count in enumerate(convs_per_block, 1):
        for conv in range(1, count + 1):
            indices[f"conv{block}_{conv}"] = index
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling
    return indices


CONV_INDEX = conv_indices(CONVS_PER_BLOCK)


def tensor_names(layer: str) -> tuple[str, str]:
    """The state dict's names of the layer's weight and bias."""
    index = CONV_INDEX[layer]
    return f"features.{index}.weight", f"features.{index}.bias"


def layers_up_to(deepest_layer: str) -> tuple[str, ...]:
    """The layers from conv1_1 to ``deepest_layer``, both included."""
    return LAYERS[: LAYERS.index(deepest_layer) + 1]


@dataclass(frozen=True)
class Block:
    """The layers between two poolings, by name, each to be followed by a ReLU; then the pooling."""

    convs: tuple[tuple[str, nn.Conv2d], ...]
    pool: nn.Module | None


def _blocks(features: nn.Sequential, layers: Sequence[str]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    convs: list[tuple[str, nn.Conv2d]] = []
    names = iter(layers)
    for module in features:
        if isinstance(module, nn.Conv2d):
            convs.append((next(names), module))
        elif not isinstance(module, nn.ReLU):
            blocks.append(Block(tuple(convs), module))
            convs = []
    return (*blocks, Block(tuple(convs), None))


class VGG(nn.Module):
    """Rectified activations F^l of VGG-19, frozen, cut after ``deepest_layer``.

    Args:
        state: ``features.N.weight`` (N_l, N_{l-1}, 3, 3) and ``features.N.bias`` (N_l,), float32,
            those that VGG-16 has none of or all; ``INPUT_MEAN`` (3,) if it has its own.
        deepest_layer: the last layer that is built.
        pooling: ``avg`` as in the paper, or ``max`` as VGG-19 was trained.
        padding: how the convolutions pad; VGG-19 was trained with ``zeros``.
    """

    def __init__(
        self,
        state: StateDict,
        *,
        deepest_layer: str,
        pooling: Pooling = "avg",
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        layers = tuple(
            layer
            for layer in layers_up_to(deepest_layer)
            if layer not in ABSENT_FROM_VGG16 or tensor_names(layer)[0] in state
        )
        pool = nn.AvgPool2d if pooling == "avg" else nn.MaxPool2d
        modules: list[nn.Module] = []
        for before, layer in zip((layers[0], *layers), layers, strict=False):
            if before[4] != layer[4]:
                modules.append(pool(kernel_size=2, stride=2))
            filters, channels = state[tensor_names(layer)[0]].shape[:2]
            modules.append(nn.Conv2d(channels, filters, 3, padding=1, padding_mode=padding))
            modules.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*modules)
        self.layers = layers
        self.blocks = _blocks(self.features, layers)
        for layer, conv in (each for block in self.blocks for each in block.convs):
            weight, bias = tensor_names(layer)
            conv.load_state_dict({"weight": state[weight], "bias": state[bias]})
        for name, values in (("mean", state.get(INPUT_MEAN, IMAGENET_MEAN)), ("std", IMAGENET_STD)):
            constant = torch.as_tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.requires_grad_(False)
        self.eval()
        # oneDNN and cuDNN work in this order; with it nothing is rearranged between the layers.
        self.to(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the convolutions."""
        return self.blocks[0].convs[0][1].weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.blocks[0].convs[0][1].weight.device

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), RGB in [0, 1] -> the mean and deviation that the network was trained with.

        In the type that the convolutions work in; the subtraction is done in the images' own. Where
        the first layer has more channels, zeros follow.
        """
        x = (images - self.get_buffer("mean").to(images)) / self.get_buffer("std").to(images)
        more = self.blocks[0].convs[0][1].in_channels - x.shape[1]
        x = F.pad(x, (0, 0, 0, 0, 0, more)) if more else x
        return x.to(self.dtype, memory_format=torch.channels_last)

    def activations(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and F^l (B, N_l, H_l, W_l), from the input upwards.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].
        """
        x = self.preprocess(images)
        names = iter(self.layers)
        for module in self.features:
            x = module(x)
            # The ReLU works in place, so what a convolution wrote is gone: F^l is taken
            # behind the ReLU, as in the paper ("filter responses" of the rectified network).
            if isinstance(module, nn.ReLU):
                yield next(names), x

    def forward(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """F^l of the named layers, each (B, N_l, H_l, W_l), for images (B, 3, H, W) in [0, 1]."""
        wanted = set(layers)
        found: dict[str, Tensor] = {}
        for name, activation in self.activations(images):
            if name in wanted:
                found[name] = activation
                if len(found) == len(wanted):
                    break
        return found


def half_precision(network: VGG) -> VGG:
    """The same network with convolutions in ``half_type``; images and their statistics stay as they
    are.

    On a GPU the first layer has ``ALIGNED`` channels, those beyond the third of zeros.
    """
    half = copy.deepcopy(network)
    half.features.to(half_type(network.device))
    if network.device.type == "cuda":
        align_input(half)
    return half


def half_type(device: torch.device) -> torch.dtype:
    """The type of 16 bits that a device convolves in.

    float16 rounds an eighth as much as bfloat16, but few processors have instructions for it, and
    its narrow range wants gradients scaled: ``Objective`` does that.
    """
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def align_input(network: VGG) -> None:
    """Give the first layer ``ALIGNED`` input channels; weights beyond the third's are zeros."""
    conv = network.blocks[0].convs[0][1]
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, ALIGNED - conv.in_channels))
    conv.in_channels = ALIGNED
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), False)
