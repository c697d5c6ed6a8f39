"""Pairs on their way through a ``Batcher``: what is asked, their stages, what becomes of them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method.balance import LossWeights
from pipeline.style.method.targets import Size, StyleTarget, scale_sizes

FLOAT32_SHARE = 10
"""In bfloat16 at least a tenth of the evaluations is done in float32, at the end."""


@dataclass(frozen=True)
class Pair:
    """One row's problem: content (3, H, W) in [0, 1], a target per scale, and its settings."""

    content_image: Tensor
    style_targets: tuple[StyleTarget, ...]
    settings: StyleSettings


@dataclass(frozen=True)
class History:
    """What happened to one pair.

    total: the loss after each evaluation, over all scales. content, style, tv: at the end, each
    with its weight, so that their sum is total_loss. layers: E_l or L_content of each layer at the
    end, without weights. weights: alpha, beta and w_l, and each E_l of the content image.
    evaluations: of loss and gradient. steps: accepted moves. stop:
    ``converged``, ``iterations``, ``stuck`` (no step lowers the loss) or ``non-finite`` (only steps
    to values that are not finite were left; the picture is the last good one). stages: size (H, W)
    and evaluations of each part of the way.
    """

    total: tuple[float, ...] = field(repr=False)  # too long for a notebook's line
    total_loss: float
    content_loss: float
    style_loss: float
    tv_loss: float
    layers: dict[str, float]
    weights: LossWeights
    evaluations: int
    steps: int
    stop: str
    stages: tuple[tuple[Size, int], ...]


class NonFiniteError(ArithmeticError):
    """A pair's loss or gradient is NaN or infinite at its start."""


@dataclass(frozen=True)
class Request:
    """A pair that is to be optimised; ``build`` is called when a slot is free for it.

    key: names the pair in ``Batcher.tick``'s answer. size: (H, W) of the content image. alone: it
    goes next, with no other pair begun, in a lane of one slot.
    """

    key: Hashable
    size: Size
    settings: StyleSettings
    build: Callable[[], Pair]
    alone: bool = False


@dataclass(frozen=True)
class Done:
    """A finished pair. image: (3, H, W) in [0, 1]. seconds: its share of the ticks it was part of.

    slots: of the last lane it was in.
    """

    image: Tensor
    history: History
    seconds: float
    slots: int


@dataclass(frozen=True)
class Stage:
    """A part of a pair's way: at most so many evaluations at one size; half: in 16 bits."""

    size: Size
    scale: int
    half: bool
    most: int


def stages_of(size: Size, settings: StyleSettings, half: torch.dtype) -> list[Stage]:
    """The stages of a pair with a content image of ``size``, coarse to fine.

    half: the type of 16 bits. float16 rounds as little as TF32 and needs no end in float32.
    """
    sizes = scale_sizes(size, settings.scales)
    each = settings.iterations // len(sizes)
    most = [each] * (len(sizes) - 1) + [settings.iterations - each * (len(sizes) - 1)]
    mixed = settings.precision == "mixed"
    ends = mixed and half == torch.bfloat16
    last = min(most[-1], -(-settings.iterations // FLOAT32_SHARE)) if ends else 0
    most[-1] -= last
    stages = [Stage(sizes[k], k, mixed, most[k]) for k in range(len(sizes)) if most[k]]
    return [*stages, Stage(size, len(sizes) - 1, False, last)] if last else stages
