"""Pairs of any sizes and settings in, finished pictures out, through lanes of slots.

``Batcher`` decides who enters which lane and which lane has the next tick; it knows neither Ray nor
threads. A pair's way is a list of stages: its scales from coarse to fine, and in mixed precision
the last part in float32.
"""

import logging
import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.device_faults import give_back, lost, out_of_memory, plain
from pipeline.style.lanes import Finish, Known, Lane, Start
from pipeline.style.pairs import Done, History, NonFiniteError, Pair, Request, Stage, stages_of
from pipeline.style.targets import Size, resize
from pipeline.style.vgg import VGG, half_precision

logger = logging.getLogger(__name__)

PER_PAIR = (
    "content_weight",
    "style_weight",
    "iterations",
    "seed",
    "image_size",
    "preserve_color",
)
"""Settings that may differ within a lane; pairs that differ in others have lanes of their own."""

IDLE_LANES = 4
"""Empty lanes that are kept, since one of the same kind is often wanted again."""

Answer = tuple[Hashable, "Done | Exception"]

LaneKey = tuple[Size, bool, StyleSettings]


@dataclass(eq=False)
class _Run:
    """A pair on its way."""

    request: Request
    stages: list[Stage]
    at: int = 0
    slot: int = -1
    pair: Pair | None = None
    image: Tensor | None = None  # (3, H, W) where the last stage ended
    known: Known | None = None  # from the last stage, if it was of this one's size
    spare: int = 0  # evaluations that it left to this one
    losses: list[float] = field(default_factory=list)
    passed: list[tuple[Size, int]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    alone: bool = False  # memory has no room for it beside pairs of other sizes

    @property
    def stage(self) -> Stage:
        return self.stages[self.at]


class Batcher:
    """Optimises pairs side by side; ``submit`` them, then ``tick`` until it is empty.

    Args:
        network: in float32, on the device to be used.
        slots: of a lane: pairs of one size that are evaluated together.
        low_memory: see ``Objective``.
    """

    def __init__(self, network: VGG, slots: int, *, low_memory: bool = False) -> None:
        self.slots, self.low_memory = slots, low_memory
        self.network = network
        self.half: VGG | None = None  # the same network in bfloat16
        self.fits: dict[Size, int] = {}  # slots that memory had room for, where it was too small
        self.lanes: dict[LaneKey, Lane] = {}
        self.running: dict[LaneKey, dict[int, _Run]] = {}
        self.waiting: dict[LaneKey, deque[_Run]] = {}
        self.evaluated = 0  # slots evaluated so far
        self.occupied = 0  # of them, those that held a pair

    def submit(self, request: Request) -> None:
        """Take a pair; it waits for a slot."""
        run = _Run(request, stages_of(request.size, request.settings))
        self.waiting.setdefault(self._key(run), deque()).append(run)

    @property
    def busy(self) -> int:
        """Pairs in slots."""
        return sum(map(len, self.running.values()))

    @property
    def begun(self) -> int:
        """Pairs that work was done on: those in slots, and those between two stages."""
        waiting = (run for queue in self.waiting.values() for run in queue)
        return self.busy + sum(run.pair is not None for run in waiting)

    def __len__(self) -> int:
        """Pairs that were submitted and are not done."""
        return self.busy + sum(map(len, self.waiting.values()))

    def tick(self, *, admit: bool = True) -> list[Answer]:
        """Fill free slots and evaluate one lane once. Returns the pairs that are through.

        A pair's own failure is its answer. ``NonFiniteError``: its loss is not finite at its start.
        ``torch.OutOfMemoryError``: it does not fit, even alone.

        Args:
            admit: whether pairs that have not begun may enter.

        Raises:
            RuntimeError: a CUDA error: the device can no longer be used.
        """
        failed = self._fill(admit)
        filled = {key: runs for key, runs in self.running.items() if runs}
        if not filled:
            return failed
        # The fullest lane wastes least; of equals the finest, whose pairs have come farthest.
        key = max(filled, key=lambda key: (len(filled[key]) / self.lanes[key].slots, key[0]))
        lane, runs = self.lanes[key], self.running[key]
        started = time.perf_counter()
        try:
            finished = lane.tick()
        except Exception as error:
            return failed + self._split(key, error)
        seconds = (time.perf_counter() - started) / len(runs)
        self.evaluated += lane.slots
        self.occupied += len(runs)
        for run in runs.values():
            run.seconds += seconds
        return failed + [
            answer
            for slot, finish in finished.items()
            if (answer := self._leave(key, runs[slot], finish))
        ]

    def drain(self) -> Iterator[Answer]:
        """Tick until it is empty."""
        while len(self):
            yield from self.tick()

    def _key(self, run: _Run) -> LaneKey:
        shared = {name: getattr(DEFAULTS, name) for name in PER_PAIR}
        return run.stage.size, run.stage.half, replace(run.request.settings, **shared)

    def _fill(self, admit: bool) -> list[Answer]:
        """Let waiting pairs into free slots. Returns those that cannot begin."""
        failed: list[Answer] = []
        if any(run.alone for runs in self.running.values() for run in runs.values()):
            return failed
        admit = admit and not any(queue[0].alone for queue in self.waiting.values())
        for key in list(self.waiting):
            queue = self.waiting[key]
            while queue and (admit or queue[0].alone or queue[0].pair is not None):
                run = queue[0]
                if run.alone and self.busy:
                    break
                fault: Exception | None = None
                try:
                    entered = self._enter(key, run)
                except Exception as error:
                    if lost(error):
                        raise
                    fault = plain(error)
                if fault is None:
                    if not entered:
                        break
                    self._forget(key, run)
                    continue
                if isinstance(fault, torch.OutOfMemoryError):
                    if self._make_room(key):
                        continue
                    if self.busy:  # in lanes of other sizes: it waits until they are done
                        run.alone = True
                        break
                self._forget(key, run)
                failed.append((run.request.key, fault))
        return failed

    def _enter(self, key: LaneKey, run: _Run) -> bool:
        """Let a pair into a slot; False where none is free.

        By itself, so that nothing holds the lane any more when ``_fill`` has to give it up.
        """
        lane = self._lane(key)
        slot = lane.free()
        if slot is None:
            return False
        lane.enter(slot, self._start(run))
        run.slot, run.known = slot, None  # the lane has it now
        self.running.setdefault(key, {})[slot] = run
        return True

    def _make_room(self, key: LaneKey) -> bool:
        """Memory was too small for a lane, or for one more pair in it. Returns whether it may be
        tried again: empty lanes are given up, then slots of this one."""
        if self._drop_idle(key):
            return True
        slots = self.lanes[key].slots if key in self.lanes else self._slots(key[0])
        if slots == 1:
            return False
        # Those who are in have room; the rest has to do with what they have.
        fewer = len(self.running.get(key, {})) or slots // 2
        self.fits[key[0]] = min(fewer, self._slots(key[0]))
        self._shrink(key)
        return True

    def _drop_idle(self, key: LaneKey) -> bool:
        """Give up the empty lanes other than this one. Returns whether there were any."""
        others = [other for other in self._idle() if other != key]
        for other in others:
            del self.lanes[other]
        if others:
            give_back()
        return bool(others)

    def _idle(self) -> list[LaneKey]:
        return [key for key in self.lanes if not self.running.get(key)]

    def _slots(self, size: Size) -> int:
        return min(self.slots, self.fits.get(size, self.slots))

    def _lane(self, key: LaneKey) -> Lane:
        if key not in self.lanes:
            idle = self._idle()
            for other in idle[: max(0, len(idle) + 1 - IDLE_LANES)]:
                del self.lanes[other]
            size, half, settings = key
            self.lanes[key] = Lane(
                self._network(half), size, self._slots(size), settings, self.low_memory
            )
        return self.lanes[key]

    def _network(self, half: bool) -> VGG:
        if not half:
            return self.network
        if self.half is None:
            self.half = half_precision(self.network)
        return self.half

    def _start(self, run: _Run) -> Start:
        """What the pair brings into its next stage."""
        if run.pair is None:
            run.pair = run.request.build()
        pair, stage = run.pair, run.stage
        full = pair.content_image[None]
        content = resize(full, stage.size).clamp(0, 1)
        if run.image is None:
            image = _initial(content[0], pair.settings)
        elif run.image.shape[1:] == content.shape[2:]:
            image = run.image
        elif pair.settings.init_image == "content":
            # The change is carried up, not the image: the content keeps its detail.
            coarse = resize(full, (run.image.shape[1], run.image.shape[2])).clamp(0, 1)
            image = (content + resize(run.image[None] - coarse, stage.size))[0].clamp(0, 1)
        else:
            image = resize(run.image[None], stage.size)[0].clamp(0, 1)
        # M_l shrinks with the scale and L_content with it, E_l does not: keep the final balance.
        share = (full.shape[2] * full.shape[3]) / (stage.size[0] * stage.size[1])
        return Start(
            content=content[0],
            image=image,
            target=pair.style_targets[stage.scale],
            alpha=pair.settings.content_weight * share,
            beta=pair.settings.style_weight,
            most=stage.most + run.spare,
            known=run.known,
        )

    def _leave(self, key: LaneKey, run: _Run, finish: Finish) -> Answer | None:
        """Take a pair out of its slot: on to its next stage, or out."""
        lane = self.lanes[key]
        del self.running[key][run.slot]
        run.losses += finish.losses
        run.passed.append((run.stage.size, len(finish.losses)))
        run.steps += finish.steps
        run.image = finish.image
        if not finish.steps:
            lane.leave(run.slot)
            return run.request.key, NonFiniteError("the loss is not finite at the start")
        if run.at + 1 < len(run.stages):
            if run.stages[run.at + 1].size == run.stage.size:
                run.known = _known(lane, run.slot)
                run.spare = run.stage.most - len(finish.losses)
            lane.leave(run.slot)
            run.at += 1
            self.waiting.setdefault(self._key(run), deque()).appendleft(run)
            return None
        try:
            history = _history(lane, run, finish.image, finish.stop)
        except torch.OutOfMemoryError as error:
            return run.request.key, plain(error)
        finally:
            lane.leave(run.slot)
        return run.request.key, Done(finish.image, history, run.seconds, lane.slots)

    def _split(self, key: LaneKey, error: Exception) -> list[Answer]:
        """A lane failed: halve it, until it fits or one pair is alone with its fault."""
        if lost(error):
            raise error
        runs = self.running[key]
        if out_of_memory(error) and self._drop_idle(key):
            self._shrink(key)
            return []
        if len(runs) == 1:
            (run,) = runs.values()
            self._shrink(key)
            if out_of_memory(error) and self.busy:
                run.alone = True
                return []
            self._forget(key, run)
            if not out_of_memory(error):
                self.fits.pop(key[0], None)  # the fault was the pair's, not the size's
            return [(run.request.key, plain(error))]
        self.fits[key[0]] = min(len(runs) // 2, self._slots(key[0]))
        # Only words: a handler that keeps the error would keep its frames, and the lane in them.
        words = "%s: batches of %s px are now %d pairs"
        logger.warning(words, str(error), key[0], self.fits[key[0]])
        self._shrink(key)
        return []

    def _forget(self, key: LaneKey, run: _Run) -> None:
        """Take a pair out of its queue. No queue is ever empty: its first one is looked at."""
        queue = self.waiting[key]
        queue.remove(run)
        if not queue:
            del self.waiting[key]

    def _shrink(self, key: LaneKey) -> None:
        """Give up a lane; its pairs begin this stage again, in a smaller one."""
        runs = self.running.pop(key, {})
        self.lanes.pop(key, None)
        self.waiting.setdefault(key, deque()).extendleft(reversed(runs.values()))
        give_back()


DEFAULTS = StyleSettings()


def _known(lane: Lane, slot: int) -> Known | None:
    """What the next lane may begin with; where memory is short it learns anew."""
    try:
        return lane.known(slot)
    except torch.OutOfMemoryError:
        return None


def _initial(content: Tensor, settings: StyleSettings) -> Tensor:
    if settings.init_image == "content":
        return content
    # Drawn on the CPU: the same picture whatever the device and the neighbours.
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(content.shape, generator=generator)
    return (0.5 + 0.25 * noise).clamp(0, 1).to(content)


def _history(lane: Lane, run: _Run, image: Tensor, stop: str) -> History:
    """The losses of the last image (3, H, W), and the way there."""
    terms = lane.objective.terms(run.slot, image)
    return History(
        total=tuple(run.losses),
        total_loss=terms.content + terms.style + terms.tv,
        content_loss=terms.content,
        style_loss=terms.style,
        tv_loss=terms.tv,
        layers=terms.layers,
        evaluations=len(run.losses),
        iterations=run.steps,
        stop=stop,
        stages=tuple(run.passed),
    )
