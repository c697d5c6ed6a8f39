"""How far a job is: what ``run_job`` tells its caller, and the estimate of the time left.

This module loads neither Ray nor PyTorch, so that a command can show something before it does.
It is one file because the estimate and what is told of it share their small data classes.
"""

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.engine.runtime import watcher
from pipeline.settings import StyleSettings

if TYPE_CHECKING:
    from pipeline.engine.board import Board
    from pipeline.engine.board_actor import Counts

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two looks at the counts."""

WATCH_INTERVAL = 30.0
"""Most seconds between two looks for work that hangs."""

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


@dataclass(frozen=True)
class Activity:
    """A part of a job, in words: while it lasts, and once it is over."""

    doing: str
    done: str


LOADING_LIBRARIES = Activity("loading PyTorch and Ray", "loaded PyTorch and Ray")
LOADING_WEIGHTS = Activity("loading the weights", "loaded the weights")
CHECKING_MANIFEST = Activity("checking the manifest", "checked the manifest")
TRYING_PAIRS = Activity("trying a few pairs", "tried a few pairs")
STARTING_RAY = Activity("starting Ray", "started Ray")
JOINING_RAY = Activity("joining the Ray cluster", "joined the Ray cluster")
FINDING_MACHINE = Activity("looking for a machine", "found a machine")
STARTING_ACTORS = Activity("starting style actors", "started a style actor")
LOADING_PAIRS = Activity("loading the first pictures", "loaded the first pictures")
STYLIZING = Activity("making pictures", "made the pictures")
CHECKING_RECORDS = Activity("checking the records", "checked the records")
PACKING = Activity("packing shards", "packed the shards")
UPLOADING = Activity("uploading the shards", "uploaded the shards")
WRITING_REPORT = Activity("writing report.html", "wrote report.html")
STOPPING_RAY = Activity("stopping Ray", "stopped Ray")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is. What is not known yet is None.

    Attributes:
        activity: What the job is doing.
        total: Pairs that this run has to do.
        done: Pairs of them that are finished, well or not.
        failed: Pairs of ``done`` that ended as errors.
        share: Part of the work that is done, from 0 to 1.
        rate: Pairs a minute at the present speed.
        seconds_left: Seconds until the last pair is finished.
        actors: Style actors that are ready.
        most_actors: Style actors that the job asks for.
        gpu_hours: GPU hours of the actors since they were ready.
        gpu_percent: Mean utilisation of the actors' GPUs.
        cache_hits: Part of the style targets that needed no computing, from 0 to 1.
    """

    activity: Activity
    total: int = 0
    done: int = 0
    failed: int = 0
    share: float | None = None
    rate: float | None = None
    seconds_left: float | None = None
    actors: int = 0
    most_actors: int = 0
    gpu_hours: float = 0.0
    gpu_percent: float | None = None
    cache_hits: float | None = None


OnProgress = Callable[[Progress], None]
"""Takes a job's progress. It is called from several threads and should return at once."""


def unheard(progress: Progress) -> None:
    """Take a job's progress and do nothing."""


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


@dataclass
class GpuClock:
    """GPU hours of the style actors that are ready. gpus: of each actor."""

    gpus: float
    hours: float = 0.0

    def add(self, actors: int, seconds: float) -> None:
        """Count so many actors for so long."""
        self.hours += actors * self.gpus * seconds / 3600


@contextlib.contextmanager
def followed(
    board: "Board",
    total: int,
    on_progress: OnProgress = unheard,
    *,
    actors: int = 1,
    gpus: float = 0.0,
    share: float = 1.0,
) -> Iterator[GpuClock]:
    """Tell ``on_progress`` what the board counts while the block runs, and watch for hanging work.

    Args:
        board: hears from the style actors.
        total: pairs to do.
        on_progress: is told every ``POLL_INTERVAL``, and once more at the end.
        actors: style actors that the job asks for.
        gpus: of each actor.
        share: see ``Forecast``.
    """
    clock = GpuClock(gpus)
    follow = _Follower(board, Forecast(total, share), on_progress, actors, clock).run
    with _beside(follow), hung_noted(board):
        yield clock


@contextlib.contextmanager
def hung_noted(board: "Board") -> Iterator[None]:
    """Watch for hanging work while the block runs: say what hung, end a job that stands still."""
    with _beside(functools.partial(_watch, board)):
        yield


@contextlib.contextmanager
def _beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run ``work`` in a thread while the block runs; it is given an event that then says so."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


@dataclass
class _Follower:
    """The thread that looks at the board."""

    board: "Board"
    forecast: Forecast
    on_progress: OnProgress
    most_actors: int
    clock: GpuClock

    def run(self, stop: threading.Event) -> None:
        before = time.monotonic()
        counts: Counts | None = None
        self.on_progress(self._starting())
        last = False
        while not last:
            last = stop.wait(POLL_INTERVAL)
            counts = _counts(self.board, counts)
            now = time.monotonic()
            if counts is not None:
                self.clock.add(min(counts.actors, self.most_actors), now - before)
                self._tell(counts, now)
            before = now

    def _tell(self, counts: "Counts", now: float) -> None:
        if counts.work or counts.ok or counts.failed:
            activity = STYLIZING
        elif counts.actors:
            activity = LOADING_PAIRS
        else:
            self.on_progress(self._starting())
            return
        found = self.forecast.add(activity, counts, now)
        most = max(self.most_actors, counts.actors)
        self.on_progress(replace(found, most_actors=most, gpu_hours=self.clock.hours))

    def _starting(self) -> Progress:
        return Progress(
            activity=STARTING_ACTORS, total=self.forecast.total, most_actors=self.most_actors
        )


def _watch(board: "Board", stop: threading.Event) -> None:
    """Say what hung, and end a job in which nothing happens though it waits for no node."""
    said, idle, over = 0, 0.0, not board.patience
    counts: Counts | None = None
    while not over:
        over = stop.wait(min(WATCH_INTERVAL, board.patience / 4))
        counts = _counts(board, counts)
        hung = counts.hung if counts is not None else ()
        for what in hung[said:]:
            logger.warning(
                f"note: {what} made no progress for {board.patience:g} s; its process was ended, "
                "and what was under way there is begun again",
            )
        said = len(hung)
        if over:
            break
        with contextlib.suppress(Exception):  # as in _counts
            idle = board.idle_seconds()
        # What hangs in a process that is watched ends before.
        if idle > 2 * board.patience and not stop.is_set():
            watcher.give_up(
                f"nothing has happened for {idle:.0f} s though a style actor is ready: storage "
                "that does not answer, most likely"
            )


def _counts(board: "Board", before: "Counts | None") -> "Counts | None":
    try:
        return board.counts()
    except Exception:  # Ray may be going down, and counts are no reason to fail
        return before
