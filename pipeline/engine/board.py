"""What the stages tell the driver and each other, in one small Ray actor.

The board holds two things. It counts what is done, for the progress shown. And it knows which pairs
are under way in which process, so that a pair that crashes its process is found. Ray Data gives the
work of a dead process to the next one without end, as it should for a lost node. A pair whose
processes crash again and again would keep a job busy for ever. So would a style actor whose process
fails in its start, or crashes later while no pair is under way.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.data.errors import RowError
from pipeline.engine.board_actor import TRIES, BoardActor, Counts, Vitals
from pipeline.engine.runtime.hanging import Watchdog

MOST_GIVEN_UP = 10
"""Pairs given up without one success before the job stops: then the pairs are not at fault."""

STARTS = 5
"""Failed starts, or idle crashes, of a style actor in a row before the job stops.

An idle crash is one with nothing done since the last start and no pair under way. Lost nodes do not
count.
"""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Board:
    """A handle to the board's actor. It travels to the stages.

    Its counts are for the progress shown. Only the records tell for certain what is done.

    Attributes:
        actor: the ``BoardActor``.
        patience: seconds that a piece of work may take without progress; 0: any time.
    """

    actor: Any
    patience: float = 0.0

    @classmethod
    def create(cls, patience: float = 0.0) -> "Board":
        """Start a board on the driver's node, which is not taken away as spot nodes are."""
        here = ray.get_runtime_context().get_node_id()
        where = NodeAffinitySchedulingStrategy(here, soft=True)
        actor = BoardActor.options(scheduling_strategy=where)  # type: ignore[attr-defined]
        return cls(actor.remote(MOST_GIVEN_UP, STARTS), patience)

    def add(self, ok: int, failed: int, pairs: Iterable[str] = ()) -> None:
        """Report stored pairs, without waiting.

        Args:
            ok: pairs that succeeded.
            failed: pairs that failed.
            pairs: ids of the pairs for which ``finish`` may have been called.
        """
        self.actor.add.remote(ok, failed, list(pairs))

    def finish(self, pairs: Mapping[str, bool]) -> None:
        """Report that pairs have their image or their error and are still to be stored.

        Args:
            pairs: whether each succeeded, by its id.
        """
        self.actor.finish.remote(dict(pairs))

    def start_actor(self) -> None:
        """Report that a style actor's process starts, and return when the board knows.

        Raises:
            RuntimeError: too many starts have failed, and either no style actor was ever ready, or
                this one was, so that blocks may wait for it; or there were too many idle crashes.
        """
        here = ray.get_runtime_context()
        asked = self.actor.start_actor.remote(here.get_actor_id(), here.get_node_id())
        failed_starts, idle_crashes = ray.get(asked)
        if idle_crashes:
            raise RuntimeError(
                f"a style actor crashed {idle_crashes} times in a row with no pair to blame and "
                "none done: its machine or this program is at fault; see Ray's logs of the workers"
            )
        if failed_starts:
            raise RuntimeError(
                f"style actors crashed while they were starting, one {failed_starts} times in a "
                "row: out of host memory, or PyTorch or its driver does not fit the machine; see "
                "Ray's logs of the workers"
            )

    def add_actor(self) -> None:
        """Report that a style actor is ready, without waiting."""
        here = ray.get_runtime_context()
        self.actor.add_actor.remote(here.get_actor_id(), here.get_node_id())

    def report(self, vitals: Vitals) -> None:
        """Report about this style actor, without waiting. This replaces its last report."""
        self.actor.report.remote(ray.get_runtime_context().get_worker_id(), vitals)

    def watchdog(self) -> Watchdog:
        """Return a watchdog that ends this process if its work makes no progress."""
        return Watchdog(self.patience, self._add_hung)

    def _add_hung(self, what: str) -> None:
        ray.get(self.actor.add_hung.remote(what), timeout=10)

    def idle_seconds(self) -> float:
        """Return the seconds since anything began or ended, if a style actor is ready but idle.

        Waits at most 5 seconds for the board.
        """
        seconds: float = ray.get(self.actor.idle_seconds.remote(), timeout=5)
        return seconds

    def counts(self) -> Counts:
        """Return the state of the job. Waits at most 5 seconds for the board."""
        counts: Counts = ray.get(self.actor.counts.remote(), timeout=5)
        return counts

    def count_crashes(self, pairs: Iterable[str]) -> dict[str, int]:
        """Return how many processes crashed under each of these pairs, if any did.

        Call this before work on the pairs: a pair that is still under way has crashed its process.

        Raises:
            RuntimeError: pair after pair was given up and none succeeded.
        """
        return _unless_hopeless(*ray.get(self.actor.count_crashes.remote(list(pairs))))

    def enter(self, pairs: list[str]) -> dict[str, int]:
        """Do ``count_crashes``, and begin work on the pairs that have crashed no process.

        If this process crashes, any of them may have caused it. The next process finds a crash
        counted for each, and takes them one by one.

        Raises:
            RuntimeError: as ``count_crashes``.
        """
        node = ray.get_runtime_context().get_node_id()
        return _unless_hopeless(*ray.get(self.actor.enter.remote(pairs, node)))

    def begin(self, pairs: list[str]) -> None:
        """Report that work on these pairs begins, and return when the board knows."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self.actor.begin.remote(pairs, node))

    def end(self, pairs: list[str]) -> None:
        """Report that work on these pairs is over, without waiting."""
        self.actor.end.remote(pairs)

    def in_turn(
        self,
        stage: str,
        work: Mapping[str, Callable[[], Answer]],
        given_up: Callable[[str, RowError], Answer],
        what: str = "pair",
        settle: Callable[[], object] = lambda: None,
    ) -> dict[str, Answer]:
        """Do work that may crash this process, and return the answers by name.

        Names that have crashed a process before come last, one by one. Work that has crashed
        ``TRIES`` processes is not begun.

        Args:
            stage: what is done, for the fault's message: "loading".
            work: the work by name.
            given_up: takes a name whose work is not begun and its fault, and returns the answer.
            what: the kind of thing that a name stands for.
            settle: completes the work of several names. They are under way until it returns.

        Raises:
            RuntimeError: as ``count_crashes``.
        """
        answers: dict[str, Answer] = {}
        crashes = self.enter(list(work))
        fresh = [name for name in work if name not in crashes]
        dog = self.watchdog()
        try:
            for name in fresh:
                with dog.limited(f"{stage} {what} {name}"):
                    answers[name] = work[name]()
            with dog.limited(f"{stage} {len(fresh)} {what}s"):
                settle()
            self._end(fresh)
            fresh = []
            for name, count in crashes.items():
                if count >= TRIES:
                    answers[name] = given_up(name, give_up(stage, count, what))
                    continue
                with self.working([name]), dog.limited(f"{stage} {what} {name}"):
                    answers[name] = work[name]()
                    settle()
        finally:
            self._end(fresh)
            dog.close()
        return answers

    @contextlib.contextmanager
    def working(self, pairs: Iterable[str]) -> Iterator[None]:
        """Do ``begin`` and ``end`` around a block. An error that it raises is not a crash."""
        names = list(pairs)
        self.begin(names)
        try:
            yield
        finally:
            self._end(names)

    def _end(self, pairs: list[str]) -> None:
        """Do ``end`` and return when the board knows: the next stage's process may ask it."""
        if pairs:
            ray.get(self.actor.end.remote(pairs))


def _unless_hopeless(crashes: dict[str, int], hopeless: bool) -> dict[str, int]:
    if hopeless:
        raise RuntimeError(
            f"pair after pair ended {TRIES} processes and none succeeded; the machine or its "
            "libraries are at fault, see Ray's logs of the workers"
        )
    return crashes


def give_up(stage: str, crashes: int, what: str = "pair") -> RowError:
    """Return the fault of a pair, or of another piece of work, that crashed too many processes."""
    return RowError(
        "process_died",
        f"{stage} this {what} ended {crashes} processes one after another: out of host memory, a "
        "crash in a library, or no progress for stall_timeout; see Ray's logs of the workers",
    )
