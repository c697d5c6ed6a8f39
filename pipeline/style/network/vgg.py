"""VGG-19's convolutions as a feature extractor.

Source: Simonyan and Zisserman, arXiv 1409.1556 (the network); Gatys, Ecker, Bethge, arXiv
1508.06576 (no fully connected layers, average pooling instead of max pooling). Layers are numbered
as in torchvision, which is not imported because that takes as long as importing torch. A state dict
with fewer filters per layer gives a narrower network of the same shape.
"""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.settings import CONVS_PER_BLOCK, LAYERS

StateDict = dict[str, Tensor]
Pooling = Literal["avg", "max"]
Padding = Literal["zeros", "replicate", "reflect"]

ALIGNED = 8
"""Input channels of the first layer in 16 bits: what a GPU's matrix units load at once. They are
slow with three channels."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean RGB (0 to 1) that torchvision's networks expect to be subtracted."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB deviation (0 to 1) that torchvision's networks expect to be divided by."""

INPUT_MEAN = "input.mean"
"""State dict key of the mean (3,) that a network expects to be subtracted, if not
``IMAGENET_MEAN``."""

ABSENT_FROM_VGG16 = ("conv3_4", "conv4_4", "conv5_4")
"""VGG-19's layers that VGG-16 does not have."""


def conv_indices(convs_per_block: Sequence[int]) -> dict[str, int]:
    """Map each layer name to the N of its convolution ``features.N`` in torchvision's networks."""
    indices, index = {}, 0
    for block, count in enumerate(convs_per_block, 1):
        for conv in range(1, count + 1):
            indices[f"conv{block}_{conv}"] = index
            index += 2  # the convolution and its ReLU
        index += 1  # the pooling
    return indices


CONV_INDEX = conv_indices(CONVS_PER_BLOCK)
"""VGG-19's layers, and the N of their ``features.N`` in torchvision's ``vgg19``."""


def tensor_names(layer: str) -> tuple[str, str]:
    """Return the state dict keys of a layer's weight and bias."""
    index = CONV_INDEX[layer]
    return f"features.{index}.weight", f"features.{index}.bias"


def layers_up_to(deepest_layer: str) -> tuple[str, ...]:
    """Return VGG-19's layers from conv1_1 to ``deepest_layer``, both included."""
    return LAYERS[: LAYERS.index(deepest_layer) + 1]


@dataclass(frozen=True)
class Block:
    """The layers between two poolings, and the pooling that follows them.

    Attributes:
        convs: each layer's name and convolution. The caller applies a ReLU after each of them.
        pool: the pooling; None in the last block.
    """

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
    """A frozen VGG-19 or VGG-16, cut after ``deepest_layer``, that returns rectified activations.

    Args:
        state: ``features.N.weight`` (N_l, N_{l-1}, 3, 3) and ``features.N.bias`` (N_l,), float32,
            under VGG-19's names. The layers in ``ABSENT_FROM_VGG16`` may be missing.
            ``INPUT_MEAN`` (3,) is optional.
        deepest_layer: the last layer to build.
        pooling: ``avg`` as in the paper, or ``max`` as in VGG-19's training.
        padding: padding of the convolutions; VGG-19 was trained with ``zeros``.
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
            stored = state[tensor_names(layer)[0]]
            filters, channels = stored.shape[:2]
            # Not of the process's own defaults, which a training loop may have changed.
            own: dict[str, Any] = {"device": stored.device, "dtype": torch.float32}
            modules.append(nn.Conv2d(channels, filters, 3, 1, 1, padding_mode=padding, **own))
            modules.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*modules)
        self.layers, self.pooling, self.padding = layers, pooling, padding
        self.blocks = _blocks(self.features, layers)
        for layer, conv in (each for block in self.blocks for each in block.convs):
            weight, bias = tensor_names(layer)
            conv.load_state_dict({"weight": state[weight], "bias": state[bias]})
        for name, values in (("mean", state.get(INPUT_MEAN, IMAGENET_MEAN)), ("std", IMAGENET_STD)):
            constant = torch.as_tensor(values, dtype=torch.float64, device=self.device)
            constant = constant.view(1, 3, 1, 1)
            self.register_buffer(name, constant, persistent=False)
        self.requires_grad_(False)
        self.eval()
        # oneDNN and cuDNN work in this memory format, so nothing is rearranged between layers.
        self.to(memory_format=torch.channels_last)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the convolutions."""
        return self.blocks[0].convs[0][1].weight.dtype

    @property
    def device(self) -> torch.device:
        """The device that holds the network."""
        return self.blocks[0].convs[0][1].weight.device

    def preprocess(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W), RGB in [0, 1], as in the network's training.

        The mean is subtracted and the deviation divided by in the images' dtype; the result has the
        convolutions' dtype. Where the first layer has more than three channels, the others are 0.
        """
        x = (images - self.get_buffer("mean").to(images)) / self.get_buffer("std").to(images)
        more = self.blocks[0].convs[0][1].in_channels - x.shape[1]
        x = F.pad(x, (0, 0, 0, 0, 0, more)) if more else x
        return x.to(self.dtype, memory_format=torch.channels_last)

    def activations(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield each layer's name and F^l (B, N_l, H_l, W_l), from the input upwards.

        Args:
            images: (B, 3, H, W), RGB in [0, 1].
        """
        x = self.preprocess(images)
        names = iter(self.layers)
        for module in self.features:
            x = module(x)
            # F^l is taken after the ReLU, as in the paper ("filter responses" of the rectified
            # network). The ReLU works in place and overwrites the convolution's output.
            if isinstance(module, nn.ReLU):
                yield next(names), x

    def forward(self, images: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Return F^l (B, N_l, H_l, W_l) of each named layer for images (B, 3, H, W) in [0, 1]."""
        wanted = set(layers)
        found: dict[str, Tensor] = {}
        for name, activation in self.activations(images):
            if name in wanted:
                found[name] = activation
                if len(found) == len(wanted):
                    break
        return found


def half_precision(network: VGG) -> VGG:
    """Copy a network, with its convolutions in ``half_type``.

    The mean and deviation keep their dtype. On a GPU the first layer is padded to ``ALIGNED`` input
    channels.
    """
    half = copy.deepcopy(network)
    half.features.to(half_type(network.device))
    if network.device.type == "cuda":
        align_input(half)
    return half


def half_type(device: torch.device) -> torch.dtype:
    """Return the 16-bit type that a device convolves in: float16 on a GPU, bfloat16 on a CPU.

    float16's rounding error is an eighth of bfloat16's, but few CPUs have instructions for it, and
    its narrow range requires scaled gradients, which ``Objective`` provides.
    """
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def align_input(network: VGG) -> None:
    """Pad the first layer to ``ALIGNED`` input channels, in place; the added weights are 0."""
    conv = network.blocks[0].convs[0][1]
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, ALIGNED - conv.in_channels))
    conv.in_channels = ALIGNED
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), False)
