"""The board's Ray actor: what style actors and tasks report, and what follows from it.

``board`` has the handle through which they report.
"""

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray

TRIES = 3
"""Processes that a pair may end before it is given up. Lost nodes do not count."""

NODES_KNOWN = 5.0
"""Seconds after which Ray is asked again which nodes are alive."""

FRESH = 15.0
"""Seconds for which a GPU's utilisation counts as the present one."""

Work = tuple[int, int, int]
"""Pairs that succeeded, pairs that failed, crashes under a pair."""


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a style actor reports about itself.

    Attributes:
        cache_hits: style targets that were in its cache, so far.
        cache_lookups: style targets that were needed, so far.
        gpu_percent: recent share of time in which its GPU computed, 0 to 100; None if not known.
        work: sum over its evaluations so far, in megapixels.
        received: pairs that it has received.
        most_work: most work that all of them may take.
        finished: pairs that succeeded.
        finished_work: work that these took.
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
    """The state of a job.

    Attributes:
        ok: pairs that succeeded: a style actor has finished them, or they are recorded.
        failed: pairs that failed.
        actors: style actors that are ready.
        cache_hits: as in ``Vitals``, summed over all actors.
        cache_lookups: as in ``Vitals``, summed over all actors.
        gpu_percent: mean over the actors that reported it lately; None if none did.
        work: as in ``Vitals``, summed over all actors.
        received: as in ``Vitals``, summed over all actors.
        most_work: as in ``Vitals``, summed over all actors.
        finished: as in ``Vitals``, summed over all actors.
        finished_work: as in ``Vitals``, summed over all actors.
        hung: for each process that was ended because it made no progress, what it was doing.
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
class BoardActor:
    """The actor behind a ``Board``, whose methods of the same names describe these.

    Args:
        most_given_up: as ``board.MOST_GIVEN_UP``.
        most_starts: as ``board.STARTS``.
    """

    def __init__(self, most_given_up: int, most_starts: int) -> None:
        self.most_given_up, self.most_starts = most_given_up, most_starts
        self.ok, self.failed = 0, 0  # stored pairs
        self.finished: dict[str, bool] = {}  # pairs to be stored: whether they succeeded
        self.vitals: dict[str, tuple[Vitals, float]] = {}  # worker: its last report, and when
        self.under_way: dict[str, str] = {}  # pair_id: node
        self.crashes: Counter[str] = Counter()  # by pair_id
        self.starting: dict[str, str] = {}  # style actor: node
        self.failed_starts: Counter[str] = Counter()  # in a row, by style actor
        self.ready: set[str] = set()  # style actors that have been ready once
        self.alive: dict[str, tuple[str, Work]] = {}  # ready style actor: node, work done by then
        self.nodes, self.nodes_known = set[str](), -math.inf  # those alive, and when Ray said so
        self.idle_crashes: Counter[str] = Counter()  # in a row, by style actor
        self.hung: list[str] = []  # what the processes did that were ended
        self.moved = time.monotonic()  # when anything last began or ended

    def add(self, ok: int, failed: int, pairs: list[str]) -> None:
        """Count stored pairs."""
        self._move()
        self.ok += ok
        self.failed += failed
        for pair_id in pairs:
            self.finished.pop(pair_id, None)

    def finish(self, pairs: dict[str, bool]) -> None:
        """Note that pairs have their image or their error and are still to be stored."""
        self.end([*pairs])
        self.finished.update(pairs)

    def _move(self) -> None:
        self.moved = time.monotonic()

    def add_hung(self, what: str) -> None:
        """Note what a process was doing that is ended for making no progress."""
        self.hung.append(what)

    def idle_seconds(self) -> float:
        """Return for how long nothing has begun or ended though a style actor is ready."""
        living = _living_nodes()
        at_work = living.intersection({*self.under_way.values(), *self.starting.values()})
        ready = living.intersection(node for node, _ in self.alive.values())
        # A watchdog watches what is at work. Without a style actor the job waits for nodes.
        if at_work or not ready:
            self._move()
        return time.monotonic() - self.moved

    def start_actor(self, actor: str, node: str) -> tuple[int, int]:
        """Note that a style actor's process starts.

        Returns:
            Failed starts and idle crashes in a row, each 0 unless they are too many.
        """
        return self._count_failed_starts(actor, node), self._count_idle_crashes(actor)

    def _count_failed_starts(self, actor: str, node: str) -> int:
        if self.starting.get(actor) in _living_nodes():
            self.failed_starts[actor] += 1
        self.starting[actor] = node
        # Other actors may be at work. One that has never been ready hinders nobody; one that has
        # been ready may have blocks that wait for it.
        if self.ready and actor not in self.ready:
            return 0
        tried = (
            self.failed_starts[actor] if self.ready else max(self.failed_starts.values(), default=0)
        )
        return tried if tried >= self.most_starts else 0

    def _count_idle_crashes(self, actor: str) -> int:
        if (last := self.alive.pop(actor, None)) is not None:
            home, work = last
            if work != self._work():
                del self.idle_crashes[actor]
            elif home in _living_nodes():
                self.idle_crashes[actor] += 1
        crashes = self.idle_crashes[actor]
        return crashes if crashes >= self.most_starts else 0

    def _work(self) -> Work:
        return self.ok, self.failed, self.crashes.total()

    def add_actor(self, actor: str, node: str) -> None:
        """Note that a style actor is ready."""
        self.ready.add(actor)
        self.alive[actor] = node, self._work()
        self.nodes_known = -math.inf
        self.starting.pop(actor, None)
        self.failed_starts.pop(actor, None)

    def _count_alive(self) -> int:
        """Return how many actors are ready, on nodes that were there some seconds ago."""
        now = time.monotonic()
        if self.alive and now >= self.nodes_known + NODES_KNOWN:
            self.nodes, self.nodes_known = _living_nodes(), now
        return sum(home in self.nodes for home, _ in self.alive.values())

    def report(self, worker: str, vitals: Vitals) -> None:
        """Replace a style actor's last report."""
        self.vitals[worker] = vitals, time.monotonic()

    def counts(self) -> Counts:
        """Return the state of the job."""
        every = [vitals for vitals, _ in self.vitals.values()]
        since = time.monotonic() - FRESH
        known = [
            vitals.gpu_percent
            for vitals, when in self.vitals.values()
            if when >= since and vitals.gpu_percent is not None
        ]
        succeeded = sum(self.finished.values())
        return Counts(
            ok=self.ok + succeeded,
            failed=self.failed + len(self.finished) - succeeded,
            actors=self._count_alive(),
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
        """Note that work on pairs begins on a node."""
        self._move()
        self.under_way.update(dict.fromkeys(pairs, node))

    def end(self, pairs: list[str]) -> None:
        """Note that work on pairs is over."""
        self._move()
        for pair_id in pairs:
            self.under_way.pop(pair_id, None)

    def enter(self, pairs: list[str], node: str) -> tuple[dict[str, int], bool]:
        """Do ``count_crashes``, then ``begin`` for the pairs without a crash."""
        crashes, hopeless = self.count_crashes(pairs)
        self.begin([pair_id for pair_id in pairs if pair_id not in crashes], node)
        return crashes, hopeless

    def count_crashes(self, pairs: list[str]) -> tuple[dict[str, int], bool]:
        """Count a crash for each pair that is still under way on a living node.

        Returns:
            The crashes of those pairs that have any, and whether the job is hopeless.
        """
        left = {pair_id for pair_id in pairs if pair_id in self.under_way}
        if left:
            alive = _living_nodes()
            self.crashes.update(pair for pair in left if self.under_way.pop(pair) in alive)
        given_up = sum(count >= TRIES for count in self.crashes.values())
        hopeless = not self.ok and given_up >= self.most_given_up
        return {pair: self.crashes[pair] for pair in pairs if pair in self.crashes}, hopeless


def _living_nodes() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}
