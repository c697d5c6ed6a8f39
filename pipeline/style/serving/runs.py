"""A pair between ``Batcher.submit`` and its end: where it is, what it brings and what it tells."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.hardware.device_faults import out_of_memory
from pipeline.style.method.balance import LossWeights, loss_weights
from pipeline.style.method.color import recolor
from pipeline.style.method.targets import Size, StyleTarget, resize
from pipeline.style.network.vgg import VGG
from pipeline.style.serving.lanes import Finish, Known, Lane, Start
from pipeline.style.serving.pairs import History, Pair, Request, Stage


@dataclass(eq=False)
class Run:
    """A pair on its way."""

    request: Request
    stages: list[Stage]
    at: int = 0
    slot: int = -1
    pair: Pair | None = None
    image: Tensor | None = None  # (3, H, W) where the last stage ended
    known: Known | None = None  # from the last stage, if it was of this one's size
    weights: LossWeights | None = None  # of the loss at the last stage's size
    spare: int = 0  # evaluations that it left to this one
    losses: list[float] = field(default_factory=list)
    passed: list[tuple[Size, int]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    alone: bool = False  # memory has no room for it beside pairs of other sizes
    since: int = 0  # the tick at which it was submitted

    @property
    def stage(self) -> Stage:
        return self.stages[self.at]

    def widen(self, finish: Finish) -> bool:
        """Do what is left of this stage, and the rest, in float32.

        Where float16 came to nothing the stage begins anew. Returns False if nothing is left.
        """
        done = len(finish.losses) if finish.steps > 1 else 0
        if done >= self.stage.most:
            return False
        if done:
            self.take(finish)
        rest = replace(self.stage, most=self.stage.most - done)
        self.stages[self.at :] = [
            replace(each, half=False) for each in (rest, *self.stages[self.at + 1 :])
        ]
        return True

    def take(self, finish: Finish) -> None:
        """Keep what a stage, or a part of one, has done."""
        self.losses += finish.losses
        self.passed.append((self.stage.size, len(finish.losses)))
        self.steps += finish.steps
        self.image = finish.image


def start_of(run: Run, network: VGG) -> Start:
    """What the pair brings into its next stage. network: in float32."""
    if run.pair is None:
        run.pair = run.request.build()
    pair, stage = run.pair, run.stage
    target = pair.style_targets[stage.scale]
    full = pair.content_image[None]
    content = resize(full, stage.size).clamp(0, 1)
    if run.image is None:
        image = _initial(content[0], target, pair.settings)
    elif run.image.shape[1:] == content.shape[2:]:
        image = run.image
    elif pair.settings.init_image != "noise":
        # The change is carried up, not the image: the content keeps its detail.
        coarse = resize(full, (run.image.shape[1], run.image.shape[2])).clamp(0, 1)
        image = (content + resize(run.image[None] - coarse, stage.size))[0].clamp(0, 1)
    else:
        image = resize(run.image[None], stage.size)[0].clamp(0, 1)
    if run.weights is None or run.image is None or run.image.shape[1:] != content.shape[2:]:
        run.weights = loss_weights(network, content[0], target, pair.settings)
    return Start(
        content=content[0],
        image=image,
        target=target,
        weights=run.weights,
        most=stage.most + run.spare,
        known=run.known,
    )


def known_of(lane: Lane, slot: int) -> Known | None:
    """What the next lane may begin with; where memory is short it learns anew."""
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
    # Drawn on the CPU: the same picture whatever the device and the neighbours.
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(content.shape, generator=generator)
    return (0.5 + 0.25 * noise).clamp(0, 1).to(content)


def history_of(lane: Lane, run: Run, finish: Finish, network: VGG) -> History:
    """The losses of the last image by ``network``, and the way there."""
    assert run.pair is not None  # both are there since its first stage  # noqa: S101
    assert run.weights is not None  # noqa: S101
    own = network is lane.objective.network
    exact = None if own else (network, run.pair.content_image)
    terms = lane.objective.terms(run.slot, finish.image, exact)
    return History(
        total=tuple(run.losses),
        total_loss=terms.content + terms.style + terms.tv,
        content_loss=terms.content,
        style_loss=terms.style,
        tv_loss=terms.tv,
        layers=terms.layers,
        weights=run.weights,
        evaluations=len(run.losses),
        steps=run.steps,
        stop=finish.stop,
        stages=tuple(run.passed),
    )
