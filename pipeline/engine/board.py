"""What the stages tell the driver and each other, in one small Ray actor.

Two things stand on the board: how the job goes, for the eye; and what is under way in which
process, so that a pair that ends its process is found out. Ray Data gives the work of a dead
process to the next one without end, as it should for a lost node: a pair whose processes die again
and again would keep a job busy for ever. So would a style actor whose process dies in its start, or
later with no pair to blame.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.data.errors import RowError
from pipeline.engine.runtime.hanging import Watchdog

TRIES = 3
"""Processes that a pair may end before it is given up. Lost nodes do not count."""

MOST_GIVEN_UP = 10
"""Pairs given up in a job without one success, before the job is stopped: not they are at fault."""

STARTS = 5
"""Processes of a style actor that may die in their start, one after another, or later with nothing
done and no pair under way. Lost nodes do not count."""

FRESH = 15.0
"""Seconds for which a GPU's utilisation counts as the present one."""


Answer = TypeVar("Answer")

Work = tuple[int, int, int]
"""Pairs that went well, pairs that failed, deaths of pairs."""


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a style actor says of itself.

    cache_hits: of ``cache_lookups`` so far, the style targets that were at hand. gpu_percent: of
    the last moments in which its GPU computed; None where that is not known. work: evaluations so
    far times the megapixels of each. received: pairs that it was given; most_work: the most that
    all of them may take. finished, finished_work: pairs that ended well, and what they took.
    """

    cache_hits: int
    cache_lookups: int
    gpu_percent: float | None
    work: float = 0.0
    received: int = 0
    most_work: float = 0.0
    finished: int = 0
    finished_work: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How a job goes.

    ok, failed: pairs that a style actor has finished, or that are recorded. actors: style actors
    that are ready. cache_hits to finished_work: as in ``Vitals``, of all actors; gpu_percent: mean
    over the actors that lately knew theirs, None if none did. hung: what made no progress, in
    words, for each process that was ended for it.
    """

    ok: int = 0
    failed: int = 0
    actors: int = 0
    cache_hits: int = 0
    cache_lookups: int = 0
    gpu_percent: float | None = None
    work: float = 0.0
    received: int = 0
    most_work: float = 0.0
    finished: int = 0
    finished_work: float = 0.0
    hung: tuple[str, ...] = ()


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class _Board:
    def __init__(self, most_given_up: int, most_starts: int) -> None:
        self.most_given_up, self.most_starts = most_given_up, most_starts
        self.ok, self.failed = 0, 0  # pairs that are stored
        self.finished: dict[str, bool] = {}  # pairs that are not stored yet: whether they went well
        self.vitals: dict[str, tuple[Vitals, float]] = {}  # worker: the last, and when
        self.under_way: dict[str, str] = {}  # pair_id: node
        self.deaths: Counter[str] = Counter()
        self.starting: dict[str, str] = {}  # style actor: node
        self.stillborn: Counter[str] = Counter()  # processes in a row, by style actor
        self.ready: set[str] = set()  # style actors that have once been
        self.alive: dict[str, tuple[str, Work]] = {}  # style actor, ready: node, the work by then
        self.barren: Counter[str] = Counter()  # processes in a row from which nothing came
        self.hung: list[str] = []  # what processes were ended for
        self.moved = time.monotonic()  # when anything last began or ended

    def add(self, ok: int, failed: int, pairs: list[str]) -> None:
        self._move()
        self.ok += ok
        self.failed += failed
        for pair_id in pairs:
            self.finished.pop(pair_id, None)

    def finish(self, pair_id: str, ok: bool) -> None:
        self.end([pair_id])
        self.finished[pair_id] = ok

    def _move(self) -> None:
        self.moved = time.monotonic()

    def add_hung(self, what: str) -> None:
        self.hung.append(what)

    def idle_seconds(self) -> float:
        living = _living_nodes()
        at_work = living.intersection({*self.under_way.values(), *self.starting.values()})
        ready = living.intersection(node for node, _ in self.alive.values())
        if at_work or not ready:  # what is at work is watched there; else it waits for nodes
            self._move()
        return time.monotonic() - self.moved

    def start_actor(self, actor: str, node: str) -> tuple[int, int]:
        return self._stillborn(actor, node), self._barren(actor)

    def _barren(self, actor: str) -> int:
        if (last := self.alive.pop(actor, None)) is not None:
            home, work = last
            if work != self._work():
                del self.barren[actor]
            elif home in _living_nodes():
                self.barren[actor] += 1
        return self.barren[actor] if self.barren[actor] >= self.most_starts else 0

    def _work(self) -> Work:
        return self.ok, self.failed, self.deaths.total()

    def _stillborn(self, actor: str, node: str) -> int:
        if self.starting.get(actor) in _living_nodes():
            self.stillborn[actor] += 1
        self.starting[actor] = node
        # Others may be at work. An actor that has never been ready hinders nobody; one that has
        # been may have blocks that wait for it.
        if self.ready and actor not in self.ready:
            return 0
        tried = self.stillborn[actor] if self.ready else max(self.stillborn.values(), default=0)
        return tried if tried >= self.most_starts else 0

    def add_actor(self, actor: str, node: str) -> None:
        self.ready.add(actor)
        self.alive[actor] = node, self._work()
        self.starting.pop(actor, None)
        self.stillborn.pop(actor, None)

    def report(self, worker: str, vitals: Vitals) -> None:
        self.vitals[worker] = vitals, time.monotonic()

    def counts(self) -> Counts:
        every = [vitals for vitals, _ in self.vitals.values()]
        since = time.monotonic() - FRESH
        known = [
            vitals.gpu_percent
            for vitals, when in self.vitals.values()
            if when >= since and vitals.gpu_percent is not None
        ]
        well = sum(self.finished.values())
        return Counts(
            ok=self.ok + well,
            failed=self.failed + len(self.finished) - well,
            actors=len(self.alive),
            cache_hits=sum(vitals.cache_hits for vitals in every),
            cache_lookups=sum(vitals.cache_lookups for vitals in every),
            gpu_percent=sum(known) / len(known) if known else None,
            work=sum(vitals.work for vitals in every),
            received=sum(vitals.received for vitals in every),
            most_work=sum(vitals.most_work for vitals in every),
            finished=sum(vitals.finished for vitals in every),
            finished_work=sum(vitals.finished_work for vitals in every),
            hung=tuple(self.hung),
        )

    def begin(self, pairs: list[str], node: str) -> None:
        self._move()
        self.under_way.update(dict.fromkeys(pairs, node))

    def end(self, pairs: list[str]) -> None:
        self._move()
        for pair_id in pairs:
            self.under_way.pop(pair_id, None)

    def enter(self, pairs: list[str], node: str) -> tuple[dict[str, int], bool]:
        deaths, hopeless = self.count_deaths(pairs)
        self.begin([pair_id for pair_id in pairs if pair_id not in deaths], node)
        return deaths, hopeless

    def count_deaths(self, pairs: list[str]) -> tuple[dict[str, int], bool]:
        left = {pair_id for pair_id in pairs if pair_id in self.under_way}
        if left:
            alive = _living_nodes()
            self.deaths.update(pair for pair in left if self.under_way.pop(pair) in alive)
        hopeless = (
            not self.ok and sum(n >= TRIES for n in self.deaths.values()) >= self.most_given_up
        )
        return {pair: self.deaths[pair] for pair in pairs if pair in self.deaths}, hopeless


def _living_nodes() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


@dataclass(frozen=True)
class Board:
    """A handle that travels to the stages. Counts are for the eye; the records are what counts.

    patience: seconds that a piece of work may take without progress; 0: any time.
    """

    actor: Any
    patience: float = 0.0

    @classmethod
    def create(cls, patience: float = 0.0) -> "Board":
        """A new board, on the driver's node: that one is not taken away as spot nodes are."""
        here = ray.get_runtime_context().get_node_id()
        where = NodeAffinitySchedulingStrategy(here, soft=True)
        actor = _Board.options(scheduling_strategy=where)  # type: ignore[attr-defined]
        return cls(actor.remote(MOST_GIVEN_UP, STARTS), patience)

    def add(self, ok: int, failed: int, pairs: Iterable[str] = ()) -> None:
        """Report stored pairs, without waiting; ``pairs``: those that ``finish`` may have named."""
        self.actor.add.remote(ok, failed, list(pairs))

    def finish(self, pair_id: str, *, ok: bool) -> None:
        """``end`` of a pair that has its picture or its error and is still to be stored."""
        self.actor.finish.remote(pair_id, ok)

    def start_actor(self) -> None:
        """A style actor's process starts, which may end it; returns when the board knows.

        Raises:
            RuntimeError: its processes have died in their start again and again, and either no
                style actor was ever ready, or this one was and blocks may wait for it; or they died
                later, with no pair under way and none done in the whole job.
        """
        here = ray.get_runtime_context()
        asked = self.actor.start_actor.remote(here.get_actor_id(), here.get_node_id())
        tried, barren = ray.get(asked)
        if barren:
            raise RuntimeError(
                f"a style actor ended {barren} times in a row with no pair to blame and none done: "
                "its machine or this program is at fault; Ray's logs of the workers say more"
            )
        if tried:
            raise RuntimeError(
                f"style actors ended while they were starting, one {tried} times in a row: out of "
                "host memory, or PyTorch or its driver does not fit the machine; Ray's logs of the "
                "workers say more"
            )

    def add_actor(self) -> None:
        """Report a style actor that is ready, without waiting."""
        here = ray.get_runtime_context()
        self.actor.add_actor.remote(here.get_actor_id(), here.get_node_id())

    def report(self, vitals: Vitals) -> None:
        """Say how this style actor goes, without waiting; the last word counts."""
        self.actor.report.remote(ray.get_runtime_context().get_worker_id(), vitals)

    def watchdog(self) -> Watchdog:
        """What ends this process if a piece of its work makes no progress, and says so here."""
        return Watchdog(self.patience, self._add_hung)

    def _add_hung(self, what: str) -> None:
        ray.get(self.actor.add_hung.remote(what), timeout=10)

    def idle_seconds(self) -> float:
        """For how long nothing has begun or ended though nothing is under way, and a style actor is
        ready; waits at most 5 seconds."""
        seconds: float = ray.get(self.actor.idle_seconds.remote(), timeout=5)
        return seconds

    def counts(self) -> Counts:
        """How the job goes; waits at most 5 seconds."""
        counts: Counts = ray.get(self.actor.counts.remote(), timeout=5)
        return counts

    def count_deaths(self, pairs: Iterable[str]) -> dict[str, int]:
        """How many processes died with each of these pairs under way; asked before work on them.

        Raises:
            RuntimeError: pair after pair was given up and none succeeded.
        """
        return _unless_hopeless(*ray.get(self.actor.count_deaths.remote(list(pairs))))

    def enter(self, pairs: list[str]) -> dict[str, int]:
        """``count_deaths``, and work begins on those that have ended no process, on all at once.

        If the process dies, each of them may have been it. The next one finds them with a death
        and takes them one by one.

        Raises:
            RuntimeError: as ``count_deaths``.
        """
        node = ray.get_runtime_context().get_node_id()
        return _unless_hopeless(*ray.get(self.actor.enter.remote(pairs, node)))

    def begin(self, pairs: list[str]) -> None:
        """Work on these pairs begins that may end the process; returns when the board knows."""
        node = ray.get_runtime_context().get_node_id()
        ray.get(self.actor.begin.remote(pairs, node))

    def end(self, pairs: list[str]) -> None:
        """Note that work is over, well or not, without waiting."""
        self.actor.end.remote(pairs)

    def in_turn(
        self,
        stage: str,
        work: Mapping[str, Callable[[], Answer]],
        given_up: Callable[[str, RowError], Answer],
        what: str = "pair",
    ) -> dict[str, Answer]:
        """Do the work of each name, which may end the process, and return the answers by name.

        Names that have ended a process before go last, one by one. What has ended ``TRIES``
        processes is not begun: ``given_up`` gets its name and the fault, and answers for it.

        Args:
            stage: what is done, for the fault: "loading".
            what: the kind of thing that a name stands for.

        Raises:
            RuntimeError: as ``count_deaths``.
        """
        answers: dict[str, Answer] = {}
        deaths = self.enter(list(work))
        fresh = [name for name in work if name not in deaths]
        dog = self.watchdog()
        try:
            for name in fresh:
                with dog.limited(f"{stage} {what} {name}"):
                    answers[name] = work[name]()
            self._end(fresh)
            fresh = []
            for name, count in deaths.items():
                if count >= TRIES:
                    answers[name] = given_up(name, give_up(stage, count, what))
                    continue
                with self.working([name]), dog.limited(f"{stage} {what} {name}"):
                    answers[name] = work[name]()
        finally:
            self._end(fresh)
            dog.close()
        return answers

    @contextlib.contextmanager
    def working(self, pairs: Iterable[str]) -> Iterator[None]:
        """``begin`` and ``end`` around work. An error that is raised is no death."""
        names = list(pairs)
        self.begin(names)
        try:
            yield
        finally:
            self._end(names)

    def _end(self, pairs: list[str]) -> None:
        """``end``, once the board knows: the next stage asks it from another process."""
        if pairs:
            ray.get(self.actor.end.remote(pairs))


def _unless_hopeless(deaths: dict[str, int], hopeless: bool) -> dict[str, int]:
    if hopeless:
        raise RuntimeError(
            f"pair after pair ended {TRIES} processes and none succeeded; the machine or its "
            "libraries are at fault, see Ray's logs of the workers"
        )
    return deaths


def give_up(stage: str, deaths: int, what: str = "pair") -> RowError:
    """The fault of a pair, or of whatever ended too many processes."""
    return RowError(
        "process_died",
        f"{stage} this {what} ended {deaths} processes one after another: out of host memory, a "
        "crash in a library, or no progress for stall_timeout; Ray's log of the workers says more",
    )
