"""Turn pairs of any sizes and settings into finished pictures, through lanes of slots.

``Batcher`` decides which pair enters which lane and which lane has the next tick; it knows neither
Ray nor threads. A pair passes through phases: its scales from coarse to fine, and a last part in
float32, where 16 bits are too coarse.

If the device's memory is too small, four measures follow each other. (1) Empty lanes are given up.
(2) The lane gets half its slots, and its pairs begin their phase again. (3) A pair in a lane of one
slot waits until no other pair is in a slot. (4) A pair that does not fit even alone fails.

The file is long because admission, turns and that policy share the same queues.
"""

import functools
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Container, Hashable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.hardware.device_faults import lost, out_of_memory, plain
from pipeline.style.network.vgg import VGG, half_type
from pipeline.style.recipe import Pair, Problem, TargetCache
from pipeline.style.serving.lane_pool import LaneKey, LanePool
from pipeline.style.serving.lanes import Finish, Lane
from pipeline.style.serving.open_pairs import (
    Finishing,
    OpenPair,
    done_of,
    history_of,
    known_of,
    start_of,
)
from pipeline.style.serving.phases import Done, History, NonFiniteError, phases_of, work_of

logger = logging.getLogger(__name__)

PER_PAIR = (
    "content_weight",
    "style_weight",
    "iterations",
    "seed",
    "image_size",
    "preserve_color",
)
"""Settings that may differ within a lane. Pairs that differ in others are in different lanes."""

OPEN_LANES = 8
"""Most lanes in use. Only pairs that have begun may open further ones."""

PATIENCE = 2_000
"""Ticks for which a pair waits for a lane before pairs that came later must wait, too."""

TURNS = 16
"""Every 16th tick goes to the lane that has waited longest, even if it is almost empty."""

Outcome = tuple[Hashable, "Done | Exception"]
"""A pair's key, and its picture or the reason why there is none."""


class Batcher:
    """Optimises pairs side by side; ``submit`` them, then ``tick`` until it is empty.

    Args:
        network: in float32, on the device to be used.
        slots: slots of a lane: pairs of one size that are evaluated together.
        low_memory: see ``Objective``.
        cache: style targets that pairs may share.
        finish: makes the picture of each ``Pair`` from its optimised image.
    """

    def __init__(
        self,
        network: VGG,
        slots: int,
        *,
        low_memory: bool = False,
        cache: TargetCache | None = None,
        finish: Finishing = recipe.finish,
    ) -> None:
        self.network, self.half, self.cache = network, half_type(network.device), cache
        self.finish = finish
        self.pool = LanePool(network, slots, low_memory=low_memory)
        self.running: dict[LaneKey, dict[int, OpenPair]] = {}
        self.waiting: dict[LaneKey, deque[OpenPair]] = {}
        self.evaluated = 0  # slots evaluated so far
        self.occupied = 0  # of them, those that held a pair
        self.work = 0.0  # evaluations of pairs, each times its megapixels
        self.ticks = 0
        self.turns: dict[LaneKey, int] = {}  # the last tick of each lane in use

    def submit(self, key: Hashable, pair: Pair | Problem, *, suspect: bool = False) -> None:
        """Take a pair, which then waits for a slot.

        Args:
            key: names the pair in ``tick``'s answer.
            pair: prepared when a slot is free for it.
            suspect: it may crash the process, so it goes next, alone, in a lane of one slot.
        """
        phases = phases_of(pair.size, pair.settings, self.half)
        opened = OpenPair(key, pair, phases, suspect, since=self.ticks, alone=suspect)
        self.waiting.setdefault(self._key(opened), deque()).append(opened)

    @property
    def busy(self) -> int:
        """Pairs in slots."""
        return sum(map(len, self.running.values()))

    @property
    def begun(self) -> int:
        """Pairs that have begun: those in slots, and those between two phases."""
        waiting = (pair for queue in self.waiting.values() for pair in queue)
        return self.busy + sum(pair.problem is not None for pair in waiting)

    def upcoming(self, most: int) -> list[Hashable]:
        """Return the keys of up to ``most`` pairs that will probably begin next."""
        if self._alone_runs():
            return []
        for queue in self.waiting.values():
            if queue[0].alone:
                fresh = queue[0].problem is None and not self.begun
                return [queue[0].key] if fresh else []
        queues = [queue for key, queue in self.waiting.items() if self._open(key)]
        turns = itertools.zip_longest(*(itertools.islice(queue, most) for queue in queues))
        pairs = (pair for turn in turns for pair in turn if pair and pair.problem is None)
        return [pair.key for pair in itertools.islice(pairs, most)]

    def __len__(self) -> int:
        """Pairs that were submitted and are not done."""
        return self.busy + sum(map(len, self.waiting.values()))

    def tick(self, may_begin: Container[Hashable] | None = None) -> list[Outcome]:
        """Fill free slots and evaluate one lane once. Returns the pairs that are finished.

        A pair's own failure is its outcome: ``NonFiniteError`` if its loss is not finite at its
        start, ``torch.OutOfMemoryError`` if it does not fit, even alone.

        Args:
            may_begin: keys of the pairs that may begin now; all if None.

        Raises:
            RuntimeError: a CUDA error: the device can no longer be used.
        """
        failed = self._fill(may_begin)
        if not self.running:
            return failed
        self.ticks += 1
        key = self._next_lane()
        lane, pairs = self.pool.lane(key), self.running[key]
        self.turns[key] = self.ticks
        started = time.perf_counter()
        try:
            finished = lane.tick()
        except Exception as error:
            return failed + self._after_fault(key, error)
        seconds = (time.perf_counter() - started) / len(pairs)
        self.evaluated += lane.slots
        self.occupied += len(pairs)
        self.work += work_of([(key[0], len(pairs))])
        for pair in pairs.values():
            pair.seconds += seconds
        return failed + [
            outcome
            for slot, finish in finished.items()
            if (outcome := self._leave(key, pairs[slot], finish))
        ]

    def _next_lane(self) -> LaneKey:
        """Choose the fullest lane, which wastes the fewest slots.

        Of equally full lanes choose the largest image size, whose pairs are nearest to their end.
        """
        if self.ticks % TURNS == 0:
            return min(self.running, key=lambda key: self.turns.get(key, 0))
        share = {key: len(pairs) / self.pool.slots_of(key) for key, pairs in self.running.items()}
        return max(self.running, key=lambda key: (share[key], key[0]))

    def under_way(self) -> Iterator[tuple[Hashable, int, float, Tensor]]:
        """Yield the pairs in slots: key, evaluations so far, latest loss and current image.

        The image is (3, H, W) in [0, 1], of the current phase's size, without its final colours.
        """
        for key, pairs in self.running.items():
            lane = self.pool.lane(key)
            for slot, pair in pairs.items():
                losses = [*pair.losses, *lane.traces[slot]]
                image = lane.optimizer.accepted[slot].view(3, *lane.size)
                yield pair.key, len(losses), losses[-1] if losses else math.nan, image

    def drain(self) -> Iterator[Outcome]:
        """Tick until it is empty."""
        while len(self):
            yield from self.tick()

    def abandon(self) -> None:
        """Forget all pairs and give up the lanes.

        An interrupted tick may have left anything half done in them.
        """
        self.running, self.waiting, self.turns = {}, {}, {}
        self.pool.lanes.clear()

    def _key(self, pair: OpenPair) -> LaneKey:
        return pair.phase.size, pair.phase.half, _shared(pair.asked.settings), pair.suspect

    def _fill(self, may_begin: Container[Hashable] | None) -> list[Outcome]:
        """Let waiting pairs into free slots. Returns those that cannot begin."""
        failed: list[Outcome] = []
        if self._alone_runs():
            return failed
        admit = not self._alone_waits()
        latest = self._latest()
        for key in list(self.waiting):
            queue = self.waiting[key]
            while queue:
                pair = queue[0]
                fresh = pair.problem is None
                if fresh and may_begin is not None and pair.key not in may_begin:
                    break
                if pair.alone and (self.begun if fresh else self.busy):
                    break
                ready = pair.alone or (admit and self._open(key) and pair.since <= latest)
                if fresh and not ready:
                    break
                fault: Exception | None = None
                try:
                    entered = self._enter(key, pair)
                except Exception as error:
                    if lost(error):
                        raise
                    fault = plain(error)
                if fault is None:
                    if not entered:
                        break
                    self._forget(key, pair)
                elif not (out_of_memory(fault) and self._make_room(key, fault)):
                    if self._waits_alone(pair, fault):
                        break
                    self._forget(key, pair)
                    failed.append((pair.key, fault))
        return failed

    def _alone_runs(self) -> bool:
        return any(pair.alone for pairs in self.running.values() for pair in pairs.values())

    def _alone_waits(self) -> bool:
        return any(queue[0].alone for queue in self.waiting.values())

    def _open(self, key: LaneKey) -> bool:
        """Whether a pair that has not begun may have a lane of this kind."""
        return key in self.running or len(self.running) < OPEN_LANES

    def _latest(self) -> float:
        """Return the latest tick of submission of the pairs that may begin.

        If an older pair has waited too long for a lane, those that came after it wait.
        """
        heads = [queue[0] for key, queue in self.waiting.items() if key not in self.running]
        oldest = min((pair.since for pair in heads if pair.problem is None), default=self.ticks)
        return oldest if self.ticks - oldest >= PATIENCE else math.inf

    def _enter(self, key: LaneKey, pair: OpenPair) -> bool:
        """Let a pair into a slot; False where none is free.

        A method of its own, so that no frame holds the lane when ``_fill`` has to give it up.
        """
        lane = self.pool.lane(key)
        slot = lane.free()
        if slot is None:
            return False
        lane.enter(slot, start_of(pair, self.network, self.cache))
        pair.slot, pair.known = slot, None  # the lane has it now
        self.running.setdefault(key, {})[slot] = pair
        return True

    def _leave(self, key: LaneKey, pair: OpenPair, finish: Finish) -> Outcome | None:
        """Take a pair out of its slot: on to its next phase, or out."""
        lane = self.pool.lane(key)
        self._take(key, pair)
        narrow = pair.phase.half and self.half == torch.float16
        # What float16's range or rounding ended, float32 may not.
        if narrow and finish.stop in ("non-finite", "stuck") and pair.widen(finish):
            self._go_on(lane, pair)
            return None
        pair.take(finish)
        if not finish.steps:
            lane.leave(pair.slot)
            return pair.key, NonFiniteError("the loss is not finite at the start")
        if pair.at + 1 < len(pair.phases):
            if pair.phases[pair.at + 1].size == pair.phase.size:
                pair.known = known_of(lane, pair.slot)
                pair.spare = pair.phase.most - len(finish.losses)
            pair.at += 1
            self._go_on(lane, pair)
            return None
        try:
            history = self._history(key, pair, finish)
            return pair.key, done_of(pair, finish.image, history, lane.slots, self.finish)
        except Exception as error:
            if lost(error):
                raise
            return pair.key, plain(error)
        finally:
            lane.leave(pair.slot)

    def _go_on(self, lane: Lane, pair: OpenPair) -> None:
        """Let a pair leave its slot and be the first to have one for its next phase."""
        lane.leave(pair.slot)
        self.waiting.setdefault(self._key(pair), deque()).appendleft(pair)

    def _take(self, key: LaneKey, pair: OpenPair) -> None:
        """Take a pair out of those in slots. No lane in ``running`` is ever empty."""
        del self.running[key][pair.slot]
        if not self.running[key]:
            del self.running[key], self.turns[key]

    def _history(self, key: LaneKey, pair: OpenPair, finish: Finish) -> History:
        """Return what happened to a pair.

        A finished picture is worth the memory of empty lanes. Where the float32 network finds no
        room, the lane's own network computes the losses.
        """
        lane = self.pool.lane(key)
        own = lane.objective.network
        for again in (False, True):
            for network in dict.fromkeys((self.network, own)):
                try:
                    return history_of(lane, pair, finish, network)
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    short = plain(error)
            if again or not self.pool.drop_idle(key):
                break
        raise short

    def _after_fault(self, key: LaneKey, error: Exception) -> list[Outcome]:
        """Go on after a lane's tick failed.

        Its pairs begin their phase again in fewer slots, until it fits or one pair is alone with
        its fault.
        """
        if lost(error):
            raise error
        fault, pairs = plain(error), list(self.running[key].values())
        if out_of_memory(fault):
            if self._make_room(key, fault):
                self._begin_again(key)
                return []
        elif len(pairs) > 1:  # one pair's own fault: halve until it is found
            self._narrow(key, len(pairs) // 2, fault)
            return []
        (pair,) = pairs
        self._begin_again(key)
        if self._waits_alone(pair, fault):
            return []
        self._forget(key, pair)
        if not out_of_memory(fault) and not pair.suspect:
            self.pool.fits.pop(key[:2], None)  # the fault was the pair's, not the size's
        return [(pair.key, fault)]

    def _make_room(self, key: LaneKey, fault: Exception) -> bool:
        """Free memory for a lane that found too little. Returns whether to try again."""
        if self.pool.drop_idle(key):
            return True
        slots = self.pool.slots_of(key)
        if slots > 1:
            self._narrow(key, slots // 2, fault)
        return slots > 1

    def _narrow(self, key: LaneKey, slots: int, fault: Exception) -> None:
        """Give a lane up for one of fewer slots."""
        self._begin_again(key)
        self.pool.narrow(key, slots)
        logger.warning("%s: batches of %s px are now %d pairs", fault, key[0], slots)

    def _waits_alone(self, pair: OpenPair, fault: Exception) -> bool:
        """Whether a pair that found no memory waits until no other pair is in a slot."""
        waits = out_of_memory(fault) and self.busy > 0
        pair.alone |= waits
        return waits

    def _forget(self, key: LaneKey, pair: OpenPair) -> None:
        """Take a pair out of its queue. No queue in ``waiting`` is ever empty."""
        queue = self.waiting[key]
        queue.remove(pair)
        if not queue:
            del self.waiting[key]

    def _begin_again(self, key: LaneKey) -> None:
        """Give a lane up; its pairs wait for another, to begin this phase again."""
        pairs = self.running.pop(key, {})
        self.turns.pop(key, None)
        if pairs:
            self.waiting.setdefault(key, deque()).extendleft(reversed(pairs.values()))
        self.pool.drop(key)


DEFAULTS = {name: getattr(StyleSettings(), name) for name in PER_PAIR}


@functools.lru_cache(256)
def _shared(settings: StyleSettings) -> StyleSettings:
    """Return settings that are equal for pairs that can share a lane."""
    return replace(settings, **DEFAULTS)
