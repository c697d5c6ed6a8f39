"""What the benchmarks work on, pictures and networks, and how they take a batcher's answers."""

import functools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from pipeline.settings import LAYERS, StyleSettings
from pipeline.style.method.targets import Size
from pipeline.style.network.calibration import Array, dead_leaves
from pipeline.style.network.rescaling import WIDTHS
from pipeline.style.network.vgg import VGG, StateDict, tensor_names
from pipeline.style.network.weights import build_network, load_network, load_weights
from pipeline.style.serving.batching import Outcome
from pipeline.style.serving.phases import Done


@functools.cache
def _painter(size: Size) -> tuple[np.random.Generator, list[Array]]:
    return np.random.Generator(np.random.PCG64(19)), []


def pictures(count: int, size: Size) -> Tensor:
    """Return pictures (count, 3, H, W) in [0, 1], painted by code, the same on every machine."""
    rng, painted = _painter(size)
    while len(painted) < count:
        painted.append(dead_leaves(max(size), 40 * 3 ** (len(painted) % 3), rng))
    stacked = np.stack(painted[:count])
    return torch.from_numpy(stacked).float()[:, :, : size[0], : size[1]]


def ready(weights: str, device: str, **changes: Any) -> tuple[VGG, StyleSettings]:
    """Return a network in float32 on a device, and settings that name its weights.

    Args:
        weights: any value of the setting, or ``wide``: the network of ``compact`` at the cost of
            VGG-16, for machines that cannot have VGG-16's weights. Its filters are repeated up to
            VGG-16's widths and give the same activations.
        device: where the network goes.
        changes: other settings.
    """
    settings = StyleSettings(weights="compact" if weights == "wide" else weights, **changes)
    if weights != "wide":
        return load_network(settings).to(device), settings
    state, _ = load_weights(settings)
    return build_network(widened(state), settings).to(device), settings


def weights_file(weights: str, folder: str) -> str:
    """Return what a job takes for such ``weights``; those of ``wide`` are written to a folder."""
    if weights != "wide":
        return weights
    network, _ = ready(weights, "cpu")
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    file = f"{folder}/wide.safetensors"
    safetensors.torch.save_file(state, file)
    return file


def widened(state: StateDict) -> StateDict:
    """Return the weights of a network of VGG-16's widths that repeats the filters of ``state``."""
    wide: StateDict = {}
    below, shares = torch.arange(3), torch.ones(3)  # the filters below, and one over their number
    for layer in (layer for layer in LAYERS if tensor_names(layer)[0] in state):
        weight, bias = tensor_names(layer)
        filters = len(state[bias])
        own = torch.arange(max(filters, WIDTHS[int(layer[4]) - 1])) % filters
        wide[weight] = state[weight][own][:, below] * shares.view(1, -1, 1, 1)
        wide[bias] = state[bias][own]
        below, shares = own, 1 / torch.bincount(own)[own]
    return wide


def succeeded(outcomes: Iterable[Outcome]) -> Iterator[tuple[Hashable, Done]]:
    """Yield each pair's key and picture. A pair's failure is raised."""
    for key, outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        yield key, outcome
