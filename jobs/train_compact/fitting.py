"""Fit a small network to a teacher, layer by layer. The compact network is made this way.

The idea is to prune channels and fit the rest by least squares (He, Zhang, Sun, "Channel Pruning
for Accelerating Very Deep Neural Networks", ICCV 2017). It goes from the input upwards. Each layer
keeps the filters that best explain all its filters, weighted by energy, as in a style loss. The
weights of a kept filter are then fitted again, so that it responds to the output of the fitted
layers below as the teacher's filter does to the teacher's.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.style.network.conventions import (
    VGG16_INDEX,
    converted,
    named_convention,
    names_in_file,
    split_convention,
)
from pipeline.style.network.vgg import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VGG,
    Padding,
    StateDict,
    layers_up_to,
)
from pipeline.style.network.weight_files import WeightsError, check_weights, parse_weights
from pipeline.style.network.weights import imagenet_weights

DEEPEST = "conv5_1"
WIDTHS = {
    "conv1_1": 16,
    "conv1_2": 16,
    "conv2_1": 32,
    "conv2_2": 32,
    "conv3_1": 96,
    "conv3_2": 96,
    "conv3_3": 80,
    "conv4_1": 256,
    "conv4_2": 224,
    "conv4_3": 192,
    "conv5_1": 352,
}
"""Filters kept in each of VGG-16's layers. The layers whose style is read keep more."""

PADDINGS: tuple[Padding, ...] = ("zeros", "replicate", "reflect")

RIDGE = 1e-4
"""Ridge of the least squares, relative to the mean square of the inputs."""

ROUNDS = 8
"""Repeats of the least squares after the first; see ``fitted_filters``."""

CHUNK = 16
"""Pictures in one forward pass."""


def read_teacher(source: str) -> tuple[StateDict, str, Padding]:
    """Read a teacher's weights.

    Args:
        source: ``imagenet`` or ``FILE[:CONVENTION][:PADDING]``, see ``conventions``.

    Returns:
        The weights, their deepest layer, and their padding.

    Raises:
        WeightsError: they cannot be loaded.
    """
    name, _, ending = source.rpartition(":")
    padding: Padding = "zeros"
    if ending in PADDINGS:
        padding = ending
    else:
        name = source
    name, convention = split_convention(name)
    if name == "imagenet":
        state, convention = imagenet_weights(), "torchvision"
    else:
        try:
            state = parse_weights(Path(name).read_bytes(), name)
        except OSError as error:
            raise WeightsError(f"--teacher {name}: cannot be read ({error})") from error
    convention = convention or named_convention(state)
    deepest = deepest_layer(state, name)
    state = converted(check_weights(state, deepest, name), convention, name)
    return state, deepest, padding


def deepest_layer(state: StateDict, name: str) -> str:
    """Return the deepest layer up to conv5_1 that ``state`` has together with all layers below.

    Raises:
        WeightsError: it has not even conv1_1.
    """
    found, names = None, names_in_file(state)
    for layer in (layer for layer in layers_up_to(DEEPEST) if layer in names):
        if f"{names[layer]}.weight" not in state:
            break
        found = layer
    if found is None:
        raise WeightsError(f"--teacher {name}: has no tensor '{names['conv1_1']}.weight'")
    return found


@torch.no_grad()
def fitted(
    teacher: VGG, images: Tensor, samples: int, generator: torch.Generator
) -> Iterator[tuple[str, StateDict]]:
    """Yield the network's layers from the input upwards: name, and weight and bias by file name.

    Each layer's mean activation over ``images`` is 1.

    Args:
        teacher: up to conv5_1, in any floating-point type; with zero padding, like the result.
        images: (B, 3, H, W), RGB in [0, 1].
        samples: positions over which a layer is fitted.
        generator: draws the positions.
    """
    theirs = list(torch.split(teacher.preprocess(images), CHUNK))
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    ours = list(torch.split((images - mean) / std, CHUNK))
    for block in teacher.blocks:
        for layer, conv in block.convs:
            if layer not in WIDTHS:  # VGG-16 lacks it
                theirs = [F.relu(conv(x)) for x in theirs]
                continue
            patches, goals = [], []
            for index, (below, own) in enumerate(zip(theirs, ours, strict=True)):
                response = conv(below)
                theirs[index] = F.relu(response)
                each = samples * len(own) // len(images)
                at = torch.randint(len(own) * response[0, 0].numel(), (each,), generator=generator)
                patches.append(_picked(F.unfold(own, 3, padding=1), at))
                goals.append(_picked(response.flatten(2), at).float())
            goal, width = torch.cat(goals), WIDTHS[layer]
            if layer == "conv1_1":  # its filters explain few others; mixtures explain more
                directions = torch.linalg.eigh(goal.T @ goal).eigenvectors[:, -width // 2 :]
                goal = goal @ torch.cat([directions, -directions], dim=1)
            else:
                goal = goal[:, explaining(F.relu(goal), width)]
            goal /= F.relu(goal).mean()
            fit = fitted_filters(F.pad(torch.cat(patches), (0, 1), value=1.0), goal)
            weight, bias = fit[:-1].T.reshape(width, -1, 3, 3).contiguous(), fit[-1].clone()
            ours = [F.relu_(F.conv2d(x, weight, bias, padding=1)) for x in ours]
            level = torch.cat([x.mean(dim=(1, 2, 3)) for x in ours]).mean()
            for x in ours:
                x /= level
            name = f"features.{VGG16_INDEX[layer]}"
            yield layer, {f"{name}.weight": weight / level, f"{name}.bias": bias / level}
        if block.pool is not None:
            theirs, ours = ([F.avg_pool2d(x, 2) for x in side] for side in (theirs, ours))


def _picked(values: Tensor, at: Tensor) -> Tensor:
    """Return values (B, N, M) at S of the B M positions, as (S, N)."""
    positions = values.shape[2]
    return values[at // positions, :, at % positions]


def explaining(activations: Tensor, count: int) -> list[int]:
    """Choose filters one by one that linearly explain most of the sum of squares of (S, N)."""
    left = (activations.T @ activations).double()
    chosen: list[int] = []
    for _ in range(count):
        alone = left.diagonal().clamp_min(0)
        gain = left.square().sum(dim=0) / (alone + 1e-6 * alone.max() + 1e-30)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        left = left - torch.outer(left[best], left[best]) / left[best, best].clamp_min(1e-12)
    return chosen


def fitted_filters(given: Tensor, wanted: Tensor) -> Tensor:
    """Return X (K, N) for which relu(given X) is close to relu(wanted).

    Where ``wanted`` is negative, any negative answer is right. So the least squares are repeated,
    with the negative answers as the goal there.

    Args:
        given: inputs (S, K).
        wanted: responses (S, N) before the ReLU.
    """
    products = given.T @ given
    ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products))
    factor = torch.linalg.cholesky((products + ridge).double()).float()
    goal = wanted
    fit = torch.cholesky_solve(given.T @ goal, factor)
    for _ in range(ROUNDS):
        answer = given @ fit
        goal = torch.where(wanted > 0, wanted, answer.clamp_max_(0))
        fit = torch.cholesky_solve(given.T @ goal, factor)
    return fit
