"""The time left, estimated from what the style actors have done."""

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engine.progress import Activity, Progress
from pipeline.settings import StyleSettings

if TYPE_CHECKING:
    from pipeline.engine.board_actor import Counts

TYPICAL = 135
"""Evaluations after which the default tolerance ends a pair, used until records tell more."""

WINDOW = 300.0
"""Seconds over which the rate is averaged. Actors may come and go in a longer time."""

SHORTEST = 2.0
"""Seconds of measured work before a rate is given."""

PRIOR_PAIRS = 2
"""Weight of the expected work of a pair, in finished pairs. The first to finish are the short."""

MOST_OF_A_PAIR = 0.95
"""Most that is counted of a pair's work before it is finished, as a part of the work of a pair."""


def expected_share(style: StyleSettings) -> float:
    """Return the part of the most evaluations that a pair is expected to need, from 0 to 1."""
    return min(1.0, TYPICAL / style.iterations) if style.tolerance else 1.0


class Forecast:
    """The time left, from the evaluations that the style actors have done.

    An evaluation counts by its pixels, so that those at a coarse scale count less. The clock starts
    with the first evaluation that is heard of: starting up says nothing about the speed.

    Args:
        total: pairs to do.
        share: part of the most evaluations that a pair is expected to need, from 0 to 1.
    """

    def __init__(self, total: int, share: float) -> None:
        self.total, self.share = total, share
        self.seen: deque[tuple[float, float]] = deque()  # seconds, work done by then
        self.best = 0.0

    def add(self, activity: Activity, counts: "Counts", now: float) -> Progress:
        """Take the counts at ``now`` (seconds on a monotonic clock) and return how far it is."""
        self._remember(counts.work, now)
        done = min(counts.ok + counts.failed, self.total)
        lookups = counts.cache_lookups
        progress = Progress(
            activity=activity,
            total=self.total,
            done=done,
            failed=min(counts.failed, done),
            actors=counts.actors,
            gpu_percent=counts.gpu_percent,
            cache_hits=counts.cache_hits / lookups if lookups else None,
        )
        each = self._work_of_a_pair(counts)
        if each is None:
            return replace(progress, share=done / self.total if done else None)
        # A pair may take longer than most, and a process may have died with its work.
        most = MOST_OF_A_PAIR * each * min(counts.received - counts.finished, self.total - done)
        begun = max(0.0, min(counts.work - counts.finished_work, most))
        left = (self.total - done) * each - begun
        self.best = max(self.best, 1 - left / (self.total * each))
        progress = replace(progress, share=self.best)
        (then, before), (last, work) = self.seen[0], self.seen[-1]
        if last - then < SHORTEST:
            return progress
        speed = (work - before) / (last - then)
        seconds = max(0.0, left / speed - (now - last)) if done < self.total else 0.0
        return replace(progress, rate=60 * speed / each, seconds_left=seconds)

    def _remember(self, work: float, now: float) -> None:
        if work and (not self.seen or work > self.seen[-1][1]):
            self.seen.append((now, work))
            while len(self.seen) > 2 and self.seen[1][0] < now - WINDOW:
                self.seen.popleft()

    def _work_of_a_pair(self, counts: "Counts") -> float | None:
        """Return what a pair takes: as expected at first, then as the finished ones took."""
        if not self.seen or not counts.received:
            return None
        expected = self.share * counts.most_work / counts.received
        known = counts.finished_work + PRIOR_PAIRS * expected
        return known / (counts.finished + PRIOR_PAIRS)
