"""CPU time of this process and of all that descend from it, by kind, as Linux counts it."""

import bisect
import contextlib
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")

INTERVAL = 0.25
"""Seconds between two looks. What a process does after the last look before its end is lost."""

KINDS = (
    ("load", r"ray::.*\(load"),
    ("store", r"ray::.*\(store"),
    ("records", r"ray::.*Write"),
    ("style actor", r"ray::.*Actor\)|ray::MapWorker"),
    ("board", r"ray::BoardActor"),
    ("other tasks", r"ray::(?!IDLE)"),
    ("Ray's workers, idle", r"ray::IDLE|default_worker"),
    ("raylet", r"raylet/raylet"),
    ("Ray's control service", r"gcs_server"),
    ("Ray's other processes", r""),
)
"""Kinds of processes, with patterns of their command lines. Ray names a worker's task there."""

STARTING = ("Ray's workers, idle",)
"""Kinds that hardly do anything but start."""


class Usage:
    """CPU seconds by kind, of processes that live and of those that have ended."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.seen: dict[tuple[int, int], float] = {}  # process and its start: seconds so far
        self.history: list[tuple[float, dict[str, float]]] = []  # when, and the sums by then

    def look(self) -> None:
        """Add what was used since the last look."""
        started = time.thread_time()
        for process, kind, start, used in _family():
            before = self.seen.get((process, start), 0.0)
            self.seen[process, start] = used
            self.seconds[kind] += used - before
        self.seconds["driver"] -= time.thread_time() - started
        self.history.append((time.time(), dict(self.seconds)))

    def between(self, start: float, end: float) -> dict[str, float]:
        """Return the seconds by kind between two times of ``time.time``."""
        times = [when for when, _ in self.history]
        first, last = (self.history[bisect.bisect(times, when) - 1][1] for when in (start, end))
        return {kind: last[kind] - first.get(kind, 0.0) for kind in last}


@contextlib.contextmanager
def watched() -> Iterator[Usage]:
    """Look at the processes from time to time while the block runs."""
    usage, stop = Usage(), threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            usage.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        stop.set()
        thread.join()


def _family() -> Iterator[tuple[int, str, int, float]]:
    """Yield each process of this one's family: its number, kind, start, CPU seconds."""
    tick, found = os.sysconf("SC_CLK_TCK"), {}
    for place in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            # The name may hold spaces and brackets; the numbers follow the last bracket.
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / tick
            found[int(place.name)] = int(fields[1]), int(fields[19]), used
    family = {os.getpid()}
    while more := {child for child in found.keys() - family if found[child][0] in family}:
        family |= more
    for process in family:
        kind = "driver" if process == os.getpid() else _kind(process)
        if kind:
            yield process, kind, *found[process][1:]


def _kind(process: int) -> str | None:
    try:
        line = (PROC / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    return next(kind for kind, pattern in KINDS if re.search(pattern, line))
