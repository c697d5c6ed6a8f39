"""Beside a running job: tell how far it is, and watch for work that hangs."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipeline.engine.board import Board
from pipeline.engine.board_actor import Counts
from pipeline.engine.forecast import Forecast
from pipeline.engine.progress import (
    LOADING_PAIRS,
    STARTING_ACTORS,
    STYLIZING,
    OnProgress,
    Progress,
    unheard,
)
from pipeline.engine.runtime import watcher

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between two looks at the counts."""

WATCH_INTERVAL = 30.0
"""Most seconds between two looks for work that hangs."""


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
    board: Board,
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
def hung_noted(board: Board) -> Iterator[None]:
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

    board: Board
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

    def _tell(self, counts: Counts, now: float) -> None:
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


def _watch(board: Board, stop: threading.Event) -> None:
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


def _counts(board: Board, before: Counts | None) -> Counts | None:
    try:
        return board.counts()
    except Exception:  # Ray may be going down, and counts are no reason to fail
        return before
