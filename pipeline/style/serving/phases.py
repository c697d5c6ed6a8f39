"""The phases of a pair, one for each scale and precision, and what is reported at its end."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method.balance import LossWeights
from pipeline.style.method.targets import Size, scale_sizes

FLOAT32_SHARE = 10
"""Denominator of the smallest share of evaluations that a bfloat16 pair spends in float32."""


@dataclass(frozen=True)
class History:
    """What happened to one pair.

    Attributes:
        total: the loss after each evaluation, over all scales.
        total_loss: the loss of the final image, the sum of the next three.
        content_loss: alpha L_content of the final image.
        style_loss: beta L_style of the final image.
        tv_loss: the weighted total variation of the final image.
        layers: L_content and E_l of each layer for the final image, without weights.
        weights: alpha, beta and w_l, and E_l of the content image.
        evaluations: evaluations of the loss and its gradient.
        steps: accepted steps of the optimiser.
        stop: ``converged``, ``iterations``, ``stuck`` (no step lowers the loss) or ``non-finite``
            (only steps to values that are not finite were left; the image is the last good one).
        phases: size (H, W) and evaluations of each phase.
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
    phases: tuple[tuple[Size, int], ...]


class NonFiniteError(ArithmeticError):
    """A pair's loss or gradient is NaN or infinite at its start."""


@dataclass(frozen=True)
class Done:
    """A finished pair.

    Attributes:
        image: of a ``Pair`` what the batcher's ``finish`` made of it, usually (3, H, W), RGB in
            [0, 1], with its final colours and on the CPU; of a ``Problem`` as it was optimised.
        history: its losses and evaluations.
        seconds: its share of the ticks that it took part in.
        slots: slots of the last lane that it was in.
    """

    image: Tensor
    history: History
    seconds: float
    slots: int


@dataclass(frozen=True)
class Phase:
    """A pair's time at one scale and precision.

    Attributes:
        size: (H, W) of the image.
        scale: index of the pair's style target.
        half: whether the network works in 16 bits.
        most: most evaluations.
    """

    size: Size
    scale: int
    half: bool
    most: int


def phases_of(size: Size, settings: StyleSettings, half: torch.dtype) -> list[Phase]:
    """Return the phases of a pair, coarse to fine.

    Args:
        size: (H, W) of the content image.
        settings: the pair's own.
        half: the 16-bit type. float16 rounds no more than TF32 and needs no last phase in float32.
    """
    sizes = scale_sizes(size, settings.scales)
    each = settings.iterations // len(sizes)
    most = [each] * (len(sizes) - 1) + [settings.iterations - each * (len(sizes) - 1)]
    mixed = settings.precision == "mixed"
    ends = mixed and half == torch.bfloat16
    last = min(most[-1], -(-settings.iterations // FLOAT32_SHARE)) if ends else 0
    most[-1] -= last
    phases = [Phase(sizes[k], k, mixed, most[k]) for k in range(len(sizes)) if most[k]]
    return [*phases, Phase(size, len(sizes) - 1, False, last)] if last else phases


def work_of(phases: Iterable[tuple[Size, int]]) -> float:
    """Return the work of evaluations: the sum of megapixels times evaluations.

    Args:
        phases: size (H, W) and evaluations of each phase.
    """
    return sum(height * width * count for (height, width), count in phases) / 1e6


def most_work(size: Size, settings: StyleSettings) -> float:
    """Return the most work, as ``work_of`` counts it, of a pair.

    Args:
        size: (H, W) of the content image.
        settings: the pair's own.
    """
    phases = phases_of(size, settings, torch.float16)
    return work_of((phase.size, phase.most) for phase in phases)
