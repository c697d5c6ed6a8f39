"""Pairs of any sizes and settings in, finished pictures out, through lanes of slots.

``Batcher`` decides who enters which lane and which lane has the next tick; it knows neither Ray nor
threads. A pair's way is a list of stages: its scales from coarse to fine, and in float32 what
16 bits cannot do.
"""

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import replace

import torch

from pipeline.settings import StyleSettings
from pipeline.style.hardware.device_faults import lost, out_of_memory, plain
from pipeline.style.network.vgg import VGG, half_type
from pipeline.style.serving.lane_pool import LaneKey, LanePool
from pipeline.style.serving.lanes import Finish, Lane
from pipeline.style.serving.pairs import Done, History, NonFiniteError, Request, stages_of, work_of
from pipeline.style.serving.runs import Run, history_of, known_of, start_of

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

OPEN_LANES = 8
"""Lanes in use beside which no other one is opened for a pair that has not begun."""

PATIENCE = 2_000
"""Ticks for which a pair may wait for a lane before those that came later have to wait for it."""

TURNS = 16
"""Of so many ticks one goes to the lane that has waited longest, however empty it is."""

Answer = tuple[Hashable, "Done | Exception"]


class Batcher:
    """Optimises pairs side by side; ``submit`` them, then ``tick`` until it is empty.

    Args:
        network: in float32, on the device to be used.
        slots: of a lane: pairs of one size that are evaluated together.
        low_memory: see ``Objective``.
    """

    def __init__(self, network: VGG, slots: int, *, low_memory: bool = False) -> None:
        self.network, self.half = network, half_type(network.device)
        self.pool = LanePool(network, slots, low_memory=low_memory)
        self.running: dict[LaneKey, dict[int, Run]] = {}
        self.waiting: dict[LaneKey, deque[Run]] = {}
        self.evaluated = 0  # slots evaluated so far
        self.occupied = 0  # of them, those that held a pair
        self.work = 0.0  # evaluations of pairs, each times its megapixels
        self.ticks = 0
        self.turns: dict[LaneKey, int] = {}  # the last tick of each lane in use

    def submit(self, request: Request) -> None:
        """Take a pair; it waits for a slot."""
        stages = stages_of(request.size, request.settings, self.half)
        run = Run(request, stages, since=self.ticks, alone=request.alone)
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

    def upcoming(self, most: int) -> list[Request]:
        """Pairs that are to begin next as far as can be told; so many of them, or fewer."""
        if self._alone_runs() or self._alone_waits():
            return []
        queues = [queue for key, queue in self.waiting.items() if self._open(key)]
        turns = itertools.zip_longest(*(itertools.islice(queue, most) for queue in queues))
        runs = (run for turn in turns for run in turn if run is not None and run.pair is None)
        return [run.request for run in itertools.islice(runs, most)]

    def __len__(self) -> int:
        """Pairs that were submitted and are not done."""
        return self.busy + sum(map(len, self.waiting.values()))

    def tick(self) -> list[Answer]:
        """Fill free slots and evaluate one lane once. Returns the pairs that are through.

        A pair's own failure is its answer. ``NonFiniteError``: its loss is not finite at its start.
        ``torch.OutOfMemoryError``: it does not fit, even alone.

        Raises:
            RuntimeError: a CUDA error: the device can no longer be used.
        """
        failed = self._fill()
        if not self.running:
            return failed
        self.ticks += 1
        key = self._next_lane()
        lane, runs = self.pool.lane(key), self.running[key]
        self.turns[key] = self.ticks
        started = time.perf_counter()
        try:
            finished = lane.tick()
        except Exception as error:
            return failed + self._split(key, error)
        seconds = (time.perf_counter() - started) / len(runs)
        self.evaluated += lane.slots
        self.occupied += len(runs)
        self.work += work_of([(key[0], len(runs))])
        for run in runs.values():
            run.seconds += seconds
        return failed + [
            answer
            for slot, finish in finished.items()
            if (answer := self._leave(key, runs[slot], finish))
        ]

    def _next_lane(self) -> LaneKey:
        """The fullest lane wastes least; of equals the finest, whose pairs have come farthest."""
        if self.ticks % TURNS == 0:
            return min(self.running, key=lambda key: self.turns.get(key, 0))
        share = {key: len(runs) / self.pool.slots_of(key) for key, runs in self.running.items()}
        return max(self.running, key=lambda key: (share[key], key[0]))

    def drain(self) -> Iterator[Answer]:
        """Tick until it is empty."""
        while len(self):
            yield from self.tick()

    def abandon(self) -> None:
        """Forget all pairs, and give up the lanes: a tick that was broken off may have left
        anything half done in them."""
        self.running, self.waiting, self.turns = {}, {}, {}
        self.pool.lanes.clear()

    def _key(self, run: Run) -> LaneKey:
        shared = {name: getattr(DEFAULTS, name) for name in PER_PAIR}
        settings = replace(run.request.settings, **shared)
        return run.stage.size, run.stage.half, settings, run.request.alone

    def _fill(self) -> list[Answer]:
        """Let waiting pairs into free slots. Returns those that cannot begin."""
        failed: list[Answer] = []
        if self._alone_runs():
            return failed
        admit = not self._alone_waits()
        latest = self._latest()
        for key in list(self.waiting):
            queue = self.waiting[key]
            while queue:
                run = queue[0]
                if run.alone and (self.begun if run.pair is None else self.busy):
                    break
                fresh = run.pair is None and not run.alone
                if fresh and not (admit and self._open(key) and run.since <= latest):
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

    def _alone_runs(self) -> bool:
        return any(run.alone for runs in self.running.values() for run in runs.values())

    def _alone_waits(self) -> bool:
        return any(queue[0].alone for queue in self.waiting.values())

    def _open(self, key: LaneKey) -> bool:
        """Whether a pair that has not begun may have a lane of this kind."""
        return key in self.running or len(self.running) < OPEN_LANES

    def _latest(self) -> float:
        """The tick up to which pairs were submitted that may begin: those that came later wait
        where an older one has waited too long for a lane."""
        heads = [queue[0] for key, queue in self.waiting.items() if key not in self.running]
        oldest = min((run.since for run in heads if run.pair is None), default=self.ticks)
        return oldest if self.ticks - oldest >= PATIENCE else math.inf

    def _enter(self, key: LaneKey, run: Run) -> bool:
        """Let a pair into a slot; False where none is free.

        By itself, so that nothing holds the lane any more when ``_fill`` has to give it up.
        """
        lane = self.pool.lane(key)
        slot = lane.free()
        if slot is None:
            return False
        lane.enter(slot, start_of(run, self.network))
        run.slot, run.known = slot, None  # the lane has it now
        self.running.setdefault(key, {})[slot] = run
        return True

    def _make_room(self, key: LaneKey) -> bool:
        """Memory was too small for a lane, or for one more pair in it. Returns whether it may be
        tried again: empty lanes are given up, then slots of this one."""
        if self.pool.drop_idle(key):
            return True
        slots = self.pool.slots_of(key)
        if slots == 1:
            return False
        # Those who are in have room; the rest has to do with what they have.
        self._narrow(key, len(self.running.get(key, {})) or slots // 2)
        return True

    def _leave(self, key: LaneKey, run: Run, finish: Finish) -> Answer | None:
        """Take a pair out of its slot: on to its next stage, or out."""
        lane = self.pool.lane(key)
        self._take(key, run)
        narrow = run.stage.half and self.half == torch.float16
        # What float16's range or rounding ended, float32 may not.
        if narrow and finish.stop in ("non-finite", "stuck") and run.widen(finish):
            self._go_on(lane, run)
            return None
        run.take(finish)
        if not finish.steps:
            lane.leave(run.slot)
            return run.request.key, NonFiniteError("the loss is not finite at the start")
        if run.at + 1 < len(run.stages):
            if run.stages[run.at + 1].size == run.stage.size:
                run.known = known_of(lane, run.slot)
                run.spare = run.stage.most - len(finish.losses)
            run.at += 1
            self._go_on(lane, run)
            return None
        try:
            history = self._history(key, run, finish)
        except Exception as error:
            if not out_of_memory(error):
                raise
            return run.request.key, plain(error)
        finally:
            lane.leave(run.slot)
        return run.request.key, Done(finish.image, history, run.seconds, lane.slots)

    def _go_on(self, lane: Lane, run: Run) -> None:
        """A pair leaves its slot and is the first to have one for its next stage."""
        lane.leave(run.slot)
        self.waiting.setdefault(self._key(run), deque()).appendleft(run)

    def _take(self, key: LaneKey, run: Run) -> None:
        """Take a pair out of those in slots. Every key there has some."""
        del self.running[key][run.slot]
        if not self.running[key]:
            del self.running[key], self.turns[key]

    def _history(self, key: LaneKey, run: Run, finish: Finish) -> History:
        """What happened to a pair; a finished picture is worth the memory of empty lanes, and
        losses that are not quite float32's where its network finds no room."""
        lane = self.pool.lane(key)
        own = lane.objective.network
        for again in (False, True):
            for network in dict.fromkeys((self.network, own)):
                try:
                    return history_of(lane, run, finish, network)
                except Exception as error:
                    if not out_of_memory(error):
                        raise
                    short = plain(error)
            if again or not self.pool.drop_idle(key):
                break
        raise short

    def _split(self, key: LaneKey, error: Exception) -> list[Answer]:
        """A lane failed: fewer slots, until it fits or one pair is alone with its fault.

        What a tick needs is a matter of the slots, not of how many of them are filled.
        """
        if lost(error):
            raise error
        runs, slots, too_small = self.running[key], self.pool.slots_of(key), out_of_memory(error)
        if too_small and self.pool.drop_idle(key):
            self._begin_again(key)
            return []
        if (slots if too_small else len(runs)) > 1:
            self._narrow(key, max(1, (slots if too_small else len(runs)) // 2))
            # Only words: a handler that keeps the error would keep its frames, and the lane.
            words = "%s: batches of %s px are now %d pairs"
            logger.warning(words, str(error), key[0], self.pool.slots_of(key))
            return []
        (run,) = runs.values()
        self._begin_again(key)
        if too_small and self.busy:
            run.alone = True
            return []
        self._forget(key, run)
        if not too_small and not run.request.alone:
            self.pool.fits.pop(key[:2], None)  # the fault was the pair's, not the size's
        return [(run.request.key, plain(error))]

    def _forget(self, key: LaneKey, run: Run) -> None:
        """Take a pair out of its queue. No queue is ever empty: its first one is looked at."""
        queue = self.waiting[key]
        queue.remove(run)
        if not queue:
            del self.waiting[key]

    def _narrow(self, key: LaneKey, slots: int) -> None:
        """Give a lane up for one of fewer slots."""
        self._begin_again(key)
        self.pool.narrow(key, slots)

    def _begin_again(self, key: LaneKey) -> None:
        """Give a lane up; its pairs wait for another, to begin this stage again."""
        runs = self.running.pop(key, {})
        self.turns.pop(key, None)
        self.waiting.setdefault(key, deque()).extendleft(reversed(runs.values()))
        self.pool.drop(key)


DEFAULTS = StyleSettings()
