"""Continuous batching: slots in which pairs are optimised side by side, each as long as it needs.

A lane has a fixed number of slots of one image size. Every tick evaluates all of them together. A
finished pair leaves its slot, and the next pair that waits for this size enters. A pair passes
through one lane per phase. Empty slots are evaluated, too, so that a pair's result does not depend,
to the bit, on when its neighbours come and go.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.hardware.graphs import Recorder, Repeated
from pipeline.style.method.balance import LossWeights
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import Size, StyleTarget
from pipeline.style.network.vgg import VGG
from pipeline.style.optimizer.curvature import Curvature
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.optimizer.learning import learnt_metric
from pipeline.style.optimizer.measured import measured_metric
from pipeline.style.optimizer.precondition import Metric, Preconditioner
from pipeline.style.serving.lane_optimizer import optimizer_of, preconditioner_of, rounding_of

WINDOW = 20
"""Evaluations over which the loss must fall by ``tolerance`` for a pair to go on."""

BFLOAT16_TOLERANCE = 0.001
"""Smallest ``tolerance`` in bfloat16; smaller gains are left to the float32 phase."""

WARM_UP = 3
"""Ticks before a CUDA graph of them is recorded."""

LEARNING_WARM_UP = 1
"""Warm-up runs before the CUDA graph of learning is recorded."""

LEARN_AFTER = (10, 20, 40, 80)
"""Evaluations after which a pair's preconditioner is learnt from its latest steps."""

LEAST_PAIRS = 3
"""Fewest curvature pairs from which a preconditioner is learnt."""


@dataclass(frozen=True)
class Known:
    """What was learnt about a pair's loss.

    Attributes:
        curvature: the curvature pairs of L-BFGS.
        metric: the preconditioner's, if there is one.
        evaluations: evaluations from which it was learnt.
    """

    curvature: Curvature
    metric: Metric | None
    evaluations: int


@dataclass(frozen=True)
class Start:
    """What a pair brings into a slot, all at the lane's size (H, W).

    Attributes:
        content: content image (3, H, W) in [0, 1].
        image: where the optimisation begins, (3, H, W) in [0, 1].
        target: style target.
        weights: weights of the loss.
        most: most evaluations.
        known: what was learnt in another lane of this size.
    """

    content: Tensor
    image: Tensor
    target: StyleTarget
    weights: LossWeights
    most: int
    known: Known | None = None


@dataclass(frozen=True)
class Finish:
    """What a pair takes away from a slot.

    Attributes:
        image: last accepted image (3, H, W) in [0, 1]; with L-BFGS the best one up to the loss's
            rounding.
        losses: the loss after each evaluation.
        steps: accepted steps.
        stop: see ``History``.
    """

    image: Tensor
    losses: list[float]
    steps: int
    stop: str


class Lane:
    """Slots of one image size.

    Args:
        network: on the device and of the floating-point type that the lane works in.
        size: (H, W) of the images.
        slots: pairs that are evaluated together.
        settings: the settings that these pairs share.
        low_memory: see ``Objective``.
        recorder: records CUDA graphs; if None, each kernel is launched separately.
    """

    def __init__(
        self,
        network: VGG,
        size: Size,
        slots: int,
        settings: StyleSettings,
        *,
        low_memory: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self.size, self.slots, self.settings = size, slots, settings
        least = BFLOAT16_TOLERANCE if network.dtype == torch.bfloat16 else 0.0
        self.tolerance = max(settings.tolerance, least)
        self.objective = Objective(network, slots, settings, low_memory=low_memory)
        empty = torch.zeros(slots, 3, *size).to(self.objective.alpha)
        self.precondition = preconditioner_of(size, empty, settings)
        self.first_metric: Metric | None = None  # else from the pair's style
        if self.precondition is not None and settings.first_metric == "measured":
            self.first_metric = measured_metric(self.precondition)
        self.optimizer = optimizer_of(empty.flatten(1), settings, rounding_of(network))
        self.active = torch.zeros(slots, dtype=torch.bool, device=empty.device)
        self.converged = torch.zeros_like(self.active)
        self.evaluations = torch.zeros(slots, dtype=torch.long, device=empty.device)
        self.most = torch.zeros_like(self.evaluations)
        self.window = empty.new_zeros(slots, WINDOW + 1)  # the last losses, as a ring
        self.sample = torch.arange(slots, device=empty.device)
        self.status = empty.new_zeros(6, slots)
        self.traces: dict[int, list[float]] = {}  # losses of the filled slots
        self.earlier: dict[int, int] = {}  # evaluations in another lane of this size
        self.learner = torch.zeros_like(self.sample[:1])  # the slot that learns
        self.ticking = Repeated(recorder, WARM_UP)
        self.learning = Repeated(recorder, LEARNING_WARM_UP)

    def free(self) -> int | None:
        """Return an empty slot, or None."""
        return next((slot for slot in range(self.slots) if slot not in self.traces), None)

    @torch.no_grad()
    def enter(self, slot: int, start: Start) -> None:
        """Put a pair into an empty slot."""
        self.objective.put(slot, start.content, start.target, start.weights)
        known = start.known
        if self.precondition is not None:
            colors = start.target.covariance if self.settings.color_preconditioner else None
            self.precondition.put(slot, colors, known.metric if known else self.first_metric)
        if isinstance(self.optimizer, LBFGS):
            curvature = known.curvature if known else None
            self.optimizer.reset(slot, start.image.flatten(), curvature)
        else:
            self.optimizer.reset(slot, start.image.flatten())
        self.evaluations[slot], self.most[slot] = 0, start.most
        self.converged[slot], self.active[slot] = False, True
        self.traces[slot] = []
        self.earlier[slot] = known.evaluations if known else 0

    def known(self, slot: int) -> Known | None:
        """Return what L-BFGS has learnt about the slot's pair; None with Adam."""
        if not isinstance(self.optimizer, LBFGS):
            return None
        P = self.precondition
        metric = None if P is None else P.metric(slot)
        evaluations = self.earlier[slot] + len(self.traces[slot])
        return Known(self.optimizer.history.curvature(slot), metric, evaluations)

    def leave(self, slot: int) -> None:
        """Empty a slot, however far its pair has come."""
        self.active[slot] = False
        del self.traces[slot], self.earlier[slot]

    def tick(self) -> dict[int, Finish]:
        """Evaluate all slots once. Returns finished pairs by slot; they stay until ``leave``."""
        if self.settings.learn_preconditioner and self.settings.history_size >= LEAST_PAIRS:
            self._learn()
        self.ticking.run(self._advance)
        loss, active, failed, stuck, converged, steps = self.status.tolist()
        done = {}
        for slot, trace in self.traces.items():
            trace.append(loss[slot])
            if not active[slot]:
                reasons = {"non-finite": failed, "stuck": stuck, "converged": converged}
                stop = next((name for name, flag in reasons.items() if flag[slot]), "iterations")
                image = self.optimizer.accepted[slot].view(3, *self.size).clone()
                done[slot] = Finish(image, trace, int(steps[slot]), stop)
        return done

    def _learn(self) -> None:
        """Learn the preconditioners of slots that have done enough evaluations."""
        optimizer, P = self.optimizer, self.precondition
        if P is None or not isinstance(optimizer, LBFGS):
            return
        for slot, trace in self.traces.items():
            if self.earlier[slot] + len(trace) in LEARN_AFTER:
                self.learner.fill_(slot)
                self.learning.run(partial(teach, optimizer, P, self.learner))

    @torch.no_grad()
    def _advance(self) -> None:
        """Evaluate every slot and take its step; all on the device, in place."""
        optimizer = self.optimizer
        loss, gradient = self.objective(optimizer.x.view(self.slots, 3, *self.size))
        if isinstance(optimizer, LBFGS):
            P = self.precondition
            preconditioned = None if P is None else P(gradient).flatten(1)
            optimizer.step(loss, gradient.flatten(1), self.active, preconditioned)
        else:
            optimizer.step(loss, gradient.flatten(1), self.active)
        self.evaluations += self.active
        # The lowest loss so far: the last one may exceed it by rounding. Adam knows only the last.
        lowest = optimizer.lowest if isinstance(optimizer, LBFGS) else optimizer.loss
        self.window[self.sample, self.evaluations % (WINDOW + 1)] = lowest
        if self.tolerance:
            before = self.window[self.sample, (self.evaluations + 1) % (WINDOW + 1)]
            settled = before - lowest < self.tolerance * lowest
            self.converged |= self.active & settled & (self.evaluations > WINDOW)
        self.active &= ~self.converged & ~optimizer.stopped & (self.evaluations < self.most)
        flags = (self.active, optimizer.failed, optimizer.stopped, self.converged, optimizer.steps)
        self.status.copy_(torch.stack([optimizer.loss, *(flag.to(loss) for flag in flags)]))


@torch.no_grad()
def teach(optimizer: LBFGS, P: Preconditioner, slot: Tensor) -> None:
    """Replace a slot's preconditioner with one learnt from its steps, if these are enough.

    This happens on the device, in place and with the same shapes for every slot, so that it can be
    recorded as a CUDA graph.

    Args:
        optimizer: holds the slot's latest steps.
        P: the preconditioner to be changed.
        slot: (1,), index of the slot.
    """
    steps, changes, count = optimizer.history.pairs_of(slot)
    metric = learnt_metric(P, slot, steps, changes)
    del steps, changes  # the largest tensors here
    # Nothing is learnt from steps whose squares overflow in float32.
    taken = (count >= LEAST_PAIRS) & torch.isfinite(metric.rings.sum() + metric.root.sum())
    convert = P.change(slot, metric, taken)

    def converted(Pv: Tensor) -> tuple[Tensor, Tensor]:
        Qv, v = convert(Pv.view(-1, 3, *P.size))
        return Qv.flatten(1), v.flatten(1)

    optimizer.history.change_metric(slot, converted, taken)
