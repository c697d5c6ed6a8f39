"""How files of weights differ: the names of their tensors, and the input they were trained with.

VGG-16 (arXiv 1409.1556, table 1, column D) is VGG-19 without ``ABSENT_FROM_VGG16``. Networks
trained with Caffe, the paper's authors' among them, see BGR from 0 to 255, less a mean.
"""

import logging
import re
from collections.abc import Iterable
from typing import Literal

import torch

from pipeline.settings import LAYERS
from pipeline.style.network.vgg import (
    ABSENT_FROM_VGG16,
    CONV_INDEX,
    IMAGENET_STD,
    INPUT_MEAN,
    StateDict,
    conv_indices,
    tensor_names,
)

logger = logging.getLogger(__name__)

Convention = Literal["torchvision", "caffe"]
"""torchvision: RGB from 0 to 1, less a mean, divided by a deviation."""

CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Mean RGB from 0 to 255, in Caffe's VGG_ILSVRC_16_layers and VGG_ILSVRC_19_layers."""

VGG16_INDEX = conv_indices((2, 2, 3, 3, 3))

LEAN = 0.3
"""Share of the root mean square of conv1_1's biases that their mean has in Caffe's networks."""

AUTHORS_NAMES = re.compile(r"conv[1-5]_[1-4]\.(weight|bias)")
"""Names of the tensors in ``vgg_conv.pth``."""


def split_convention(source: str) -> tuple[str, Convention | None]:
    """A file's name and what follows it: nothing, ``:caffe`` or ``:torchvision``."""
    known: tuple[Convention, ...] = ("torchvision", "caffe")
    for convention in known:
        if source.endswith(f":{convention}"):
            return source.removesuffix(f":{convention}"), convention
    return source, None


def convolutions(state: StateDict) -> StateDict:
    """The tensors of a file that are named like a VGG's convolutions."""
    found = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    return found or {key: t for key, t in state.items() if AUTHORS_NAMES.fullmatch(key)}


def named_convention(state: StateDict) -> Convention | None:
    """The convention that the tensors' names tell: Caffe's, if they are the authors'."""
    return "caffe" if any(map(AUTHORS_NAMES.fullmatch, state)) else None


def names_in_file(keys: Iterable[str]) -> dict[str, str]:
    """Layer to its tensors' name in a file that holds ``keys``, without ``.weight`` and ``.bias``.

    Those of VGG-19, or of VGG-16 if the keys are a VGG-16's.
    """
    found = {key.rpartition(".")[0] for key in keys}
    if found & set(LAYERS):
        names_19 = {layer: layer for layer in LAYERS}
        names_16 = {layer: layer for layer in LAYERS if layer not in ABSENT_FROM_VGG16}
    else:
        names_19 = {layer: f"features.{index}" for layer, index in CONV_INDEX.items()}
        names_16 = {layer: f"features.{index}" for layer, index in VGG16_INDEX.items()}
    in_19_alone = set(names_19.values()) - set(names_16.values())
    is_16 = names_16["conv4_1"] in found and not found & in_19_alone
    return names_16 if is_16 else names_19


def converted(state: StateDict, convention: Convention | None, name: str) -> StateDict:
    """``state`` by VGG-19's names, for torchvision's input.

    Args:
        convention: of ``state``; None if nobody said: then torchvision's is taken. A line is logged
            where the weights look otherwise, but not if torchvision's was said.
    """
    if convention == "caffe" and not _looks_like_caffe(state):
        logger.warning(
            "weights %s: do not look like Caffe's (BGR, 0 to 255), but are read as such; write "
            "%s:torchvision if they are not",
            *(name, name),
        )
    if convention is None and _looks_like_caffe(state):
        logger.warning(
            "weights %s: look like Caffe's (BGR, 0 to 255), but are read as torchvision's; write "
            "%s:caffe, or %s:torchvision if they are not",
            *(name, name, name),
        )
    return _for_torchvision(state) if convention == "caffe" else state


def _looks_like_caffe(state: StateDict) -> bool:
    """Whether a network, named as VGG-19, seems to have been trained with Caffe's input.

    Told by conv1_1. Caffe's weights are as large as torchvision's, though their input is 58 times
    as large, but most biases are positive: of VGG-16 and VGG-19 the biases' root mean square is 3.7
    times the weights', and their mean is 0.7 of it. Of torchvision's VGG-16 these are about 2 and
    -0.1; of Caffe's VGG-16 made fit for torchvision's input 0.06 and 0.7.
    """
    weight, bias = (state[name].double() for name in tensor_names(LAYERS[0]))
    size = bias.square().mean().sqrt()
    return bool(size > weight.square().mean().sqrt() and bias.mean() > LEAN * size)


def _for_torchvision(state: StateDict) -> StateDict:
    """A network of Caffe's, named as VGG-19, for torchvision's input; its mean goes with it.

    W (255 x - m) = (255 s W) ((x - m / 255) / s). The mean must not go into the bias: what a
    convolution pads with is 0 after the mean was taken off, and the bias is added there too.
    """
    first, _ = tensor_names(LAYERS[0])
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1)
    weight = (state[first].double().flip(1) * 255 * std).to(state[first])
    mean = torch.tensor(CAFFE_MEAN, dtype=torch.float64) / 255
    return {**state, first: weight, INPUT_MEAN: mean}
