"""How weight files differ: in tensor names, and in the input they were trained on.

VGG-16 (arXiv 1409.1556, table 1, column D) is VGG-19 without ``ABSENT_FROM_VGG16``. Networks
trained with Caffe, including the paper authors' own, expect BGR from 0 to 255 minus a mean.
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
"""Input of a network. torchvision: RGB from 0 to 1, minus a mean, divided by a deviation. caffe:
BGR from 0 to 255, minus a mean."""

CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Mean RGB (0 to 255) of Caffe's VGG_ILSVRC_16_layers and VGG_ILSVRC_19_layers."""

VGG16_INDEX = conv_indices((2, 2, 3, 3, 3))
"""VGG-16's layers, and the N of their ``features.N`` in torchvision's ``vgg16``."""

LEAST_BIAS_MEAN = 0.3
"""Smallest mean of conv1_1's biases, relative to their root mean square, in Caffe's networks."""

AUTHORS_NAMES = re.compile(r"conv[1-5]_[1-4]\.(weight|bias)")
"""Tensor names in ``vgg_conv.pth``, the file of the paper's authors."""


def split_convention(source: str) -> tuple[str, Convention | None]:
    """Split ``:caffe`` or ``:torchvision`` off the end of a path or URI."""
    known: tuple[Convention, ...] = ("torchvision", "caffe")
    for convention in known:
        if source.endswith(f":{convention}"):
            return source.removesuffix(f":{convention}"), convention
    return source, None


def convolutions(state: StateDict) -> StateDict:
    """Return the tensors of a file that are named like a VGG's convolutions."""
    found = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    return found or {key: t for key, t in state.items() if AUTHORS_NAMES.fullmatch(key)}


def named_convention(state: StateDict) -> Convention | None:
    """Return the convention that the tensor names imply: ``caffe`` for the authors' names."""
    return "caffe" if any(map(AUTHORS_NAMES.fullmatch, state)) else None


def names_in_file(keys: Iterable[str]) -> dict[str, str]:
    """Map each layer to its tensors' name in a file, without ``.weight`` and ``.bias``.

    The layers are VGG-16's if ``keys`` are a VGG-16's, otherwise VGG-19's.

    Args:
        keys: all tensor names in the file.
    """
    found = {key.rpartition(".")[0] for key in keys}
    if found & set(LAYERS):
        names_19 = {layer: layer for layer in LAYERS}
        names_16 = {layer: layer for layer in LAYERS if layer not in ABSENT_FROM_VGG16}
    else:
        names_19 = {layer: f"features.{index}" for layer, index in CONV_INDEX.items()}
        names_16 = {layer: f"features.{index}" for layer, index in VGG16_INDEX.items()}
    only_in_19 = set(names_19.values()) - set(names_16.values())
    is_16 = names_16["conv4_1"] in found and not found & only_in_19
    return names_16 if is_16 else names_19


def converted(state: StateDict, convention: Convention | None, name: str) -> StateDict:
    """Convert a state dict to torchvision's input.

    A warning is logged where the weights look like those of the other convention, unless the user
    chose ``torchvision`` explicitly.

    Args:
        state: weights under VGG-19's names.
        convention: the convention of ``state``; None if unknown, which is read as torchvision's.
        name: the path or URI that warnings show.
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
    """Tell whether a network, under VGG-19's names, seems to have been trained on Caffe's input.

    The test looks at conv1_1. It compares the root mean square of the biases with that of the
    weights, and the mean of the biases with their root mean square. The two ratios are 3.7 and 0.7
    in Caffe's VGG-16 and VGG-19, about 2 and -0.1 in torchvision's VGG-16, and 0.06 and 0.7 in
    Caffe's VGG-16 converted to torchvision's input.
    """
    weight, bias = (state[name].double() for name in tensor_names(LAYERS[0]))
    size = bias.square().mean().sqrt()
    return bool(size > weight.square().mean().sqrt() and bias.mean() > LEAST_BIAS_MEAN * size)


def _for_torchvision(state: StateDict) -> StateDict:
    """Convert a Caffe network, under VGG-19's names, to torchvision's input.

    W (255 x - m) = (255 s W) ((x - m / 255) / s). The mean m / 255 is stored as ``INPUT_MEAN``. It
    cannot be folded into the bias: padding is 0 after the mean has been subtracted, and the bias
    is added there as well.
    """
    first, _ = tensor_names(LAYERS[0])
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64).view(1, 3, 1, 1)
    weight = (state[first].double().flip(1) * 255 * std).to(state[first])
    mean = torch.tensor(CAFFE_MEAN, dtype=torch.float64) / 255
    return {**state, first: weight, INPUT_MEAN: mean}
