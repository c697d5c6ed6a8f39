"""The state of a pair from ``Batcher.submit`` to its end."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.hardware.device_faults import out_of_memory
from pipeline.style.method.balance import LossWeights, loss_weights
from pipeline.style.method.color import recolor
from pipeline.style.method.targets import Size, StyleTarget, resize
from pipeline.style.network.vgg import VGG
from pipeline.style.recipe import Pair, Problem, TargetCache
from pipeline.style.serving.lanes import Finish, Known, Lane, Start
from pipeline.style.serving.phases import Done, History, Phase


@dataclass(eq=False)
class OpenPair:
    """A pair that is not finished.

    Attributes:
        key: the name under which it was submitted.
        asked: what was submitted; a ``Problem`` if it is prepared already.
        phases: all of them, coarse to fine.
        suspect: it may end the process, so it runs alone, in a lane of one slot.
        since: the tick at which it was submitted.
        at: index of the present phase.
        slot: its slot in the present lane.
        problem: None until the pair begins.
        image: (3, H, W), where the last phase ended.
        known: what the last phase learnt, if it was of this one's size.
        weights: weights of the loss at the last phase's size.
        spare: evaluations that the last phase left to this one.
        losses: the loss after each evaluation so far.
        passed: size and evaluations of the phases so far.
        steps: accepted steps so far.
        seconds: its share of the ticks so far.
        alone: it may begin or go on only while no other pair is in a slot.
    """

    key: Hashable
    asked: Pair | Problem
    phases: list[Phase]
    suspect: bool = False
    since: int = 0
    at: int = 0
    slot: int = -1
    problem: Problem | None = None
    image: Tensor | None = None
    known: Known | None = None
    weights: LossWeights | None = None
    spare: int = 0
    losses: list[float] = field(default_factory=list)
    passed: list[tuple[Size, int]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    alone: bool = False

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self.phases[self.at]

    def widen(self, finish: Finish) -> bool:
        """Do the rest of this phase, and all later ones, in float32.

        If float16 made no progress, the phase begins again. Returns False if nothing is left to do.
        """
        done = len(finish.losses) if finish.steps > 1 else 0
        if done >= self.phase.most:
            return False
        if done:
            self.take(finish)
        rest = replace(self.phase, most=self.phase.most - done)
        self.phases[self.at :] = [
            replace(each, half=False) for each in (rest, *self.phases[self.at + 1 :])
        ]
        return True

    def take(self, finish: Finish) -> None:
        """Keep what a phase, or a part of one, has done."""
        self.losses += finish.losses
        self.passed.append((self.phase.size, len(finish.losses)))
        self.steps += finish.steps
        self.image = finish.image


Finishing = Callable[[Tensor, Pair], Tensor]
"""Takes an optimised image and its pair, and returns the finished picture: ``recipe.finish``."""


def start_of(pair: OpenPair, network: VGG, cache: TargetCache | None) -> Start:
    """Return what the pair brings into its next phase.

    Args:
        pair: prepared here when it begins.
        network: in float32.
        cache: style targets that other pairs may share.
    """
    if pair.problem is None:
        asked = pair.asked
        pair.problem = (
            asked if isinstance(asked, Problem) else recipe.prepare(network, asked, cache)
        )
    problem, phase = pair.problem, pair.phase
    target = problem.style_targets[phase.scale]
    full = problem.content_image[None]
    content = resize(full, phase.size).clamp(0, 1)
    if pair.image is None:
        image = _initial(content[0], target, problem.settings)
    elif pair.image.shape[1:] == content.shape[2:]:
        image = pair.image
    elif problem.settings.init_image != "noise":
        # Only the change is enlarged, not the image, so that the content keeps its detail.
        coarse = resize(full, (pair.image.shape[1], pair.image.shape[2])).clamp(0, 1)
        image = (content + resize(pair.image[None] - coarse, phase.size))[0].clamp(0, 1)
    else:
        image = resize(pair.image[None], phase.size)[0].clamp(0, 1)
    if pair.weights is None or pair.image is None or pair.image.shape[1:] != content.shape[2:]:
        pair.weights = loss_weights(network, content[0], target, problem.settings)
    return Start(
        content=content[0],
        image=image,
        target=target,
        weights=pair.weights,
        most=phase.most + pair.spare,
        known=pair.known,
    )


def known_of(lane: Lane, slot: int) -> Known | None:
    """Return what a lane has learnt about a pair, or None if memory is too short to copy it."""
    try:
        return lane.known(slot)
    except Exception as error:
        if out_of_memory(error):
            return None
        raise


def _initial(content: Tensor, target: StyleTarget, settings: StyleSettings) -> Tensor:
    if settings.init_image == "content" or not settings.style_weight:
        return content
    if settings.init_image == "recolored":
        return recolor(content, target.mean, target.covariance)
    # Drawn on the CPU, so that it does not depend on the device or on the other pairs.
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(content.shape, generator=generator, device="cpu")
    return (0.5 + 0.25 * noise).clamp(0, 1).to(content)


def history_of(lane: Lane, pair: OpenPair, finish: Finish, network: VGG) -> History:
    """Return the losses of the final image, as ``network`` computes them, and its history."""
    assert pair.problem is not None  # both exist since its first phase  # noqa: S101
    assert pair.weights is not None  # noqa: S101
    own = network is lane.objective.network
    exact = None if own else (network, pair.problem.content_image)
    terms = lane.objective.terms(pair.slot, finish.image, exact)
    return History(
        total=tuple(pair.losses),
        total_loss=terms.content + terms.style + terms.tv,
        content_loss=terms.content,
        style_loss=terms.style,
        tv_loss=terms.tv,
        layers=terms.layers,
        weights=pair.weights,
        evaluations=len(pair.losses),
        steps=pair.steps,
        stop=finish.stop,
        phases=tuple(pair.passed),
    )


def done_of(pair: OpenPair, image: Tensor, history: History, slots: int, finish: Finishing) -> Done:
    """Return the finished pair, its image with its final colours."""
    if isinstance(pair.asked, Pair):
        image = finish(image, pair.asked)
    return Done(image, history, pair.seconds, slots)
