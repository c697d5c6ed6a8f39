"""Notice that Ray is gone before its core does, which would end the driver after a minute, mutely.

A dead raylet is noticed by nobody at all: the driver would wait for ever.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import ray

from pipeline.engine.runtime import watcher

INTERVAL = 0.25
"""Seconds between two looks at the processes."""

GCS_INTERVAL, GCS_PATIENCE, GCS_TIMEOUT = 5.0, 45.0, 10.0
"""Seconds between two looks at a cluster's GCS, until it counts as gone, and for an answer. It may
start again within a minute, after which Ray's core ends the driver."""

NAMES = {
    "gcs_server": "Ray's control service (gcs_server)",
    "raylet": "Ray's node manager (raylet)",
}


@dataclass(frozen=True)
class Process:
    """One of Ray's on this machine, told from a later one with its id by when it began."""

    pid: int
    began: str
    name: str

    def is_gone(self) -> bool:
        """Whether it has ended; its parent need not have noticed."""
        state, began = _status(self.pid)
        return state in "ZX" or began != self.began


def of_folder(folder: str) -> list[Process]:
    """The main processes of a Ray with its files in ``folder``."""
    return _named(pid for pid in watcher.processes_of(folder))


def of_cluster() -> list[Process]:
    """The raylet that this driver of a cluster is connected to; none where it cannot be seen."""
    here = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    sockets = [node["RayletSocketName"] for node in nodes if node["NodeID"] == here]
    return [
        found
        for found in _named(int(name) for name in os.listdir("/proc") if name.isdigit())
        if found.name == "raylet" and any(_mentions(found.pid, name) for name in sockets if name)
    ]


def watch(processes: list[Process], gcs: str | None) -> Callable[[], None]:
    """Have a thread see that the processes live and that somebody listens at ``gcs``.

    If not, this process is ended with exit code 1 and a line that says so. Returns what stops it.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(processes, gcs, stop), daemon=True)
    thread.start()
    return stop.set


def _watch(processes: list[Process], gcs: str | None, stop: threading.Event) -> None:
    answered = asked = time.monotonic()
    while not stop.wait(INTERVAL):
        gone = [NAMES[process.name] for process in processes if process.is_gone()]
        now = time.monotonic()
        if gcs and now - asked >= GCS_INTERVAL:
            asked = now
            if answers(gcs):
                answered = time.monotonic()
            elif time.monotonic() - answered > GCS_PATIENCE:
                gone.append(f"{NAMES['gcs_server']} at {gcs}")
        if gone and not stop.wait(INTERVAL) and ray.is_initialized():  # else Ray is being ended
            watcher.give_up(f"{gone[0]} has ended (killed, or out of memory), and this run with it")


def answers(address: str) -> bool:
    """Whether somebody listens at host:port."""
    host, _, port = address.rpartition(":")
    with (
        contextlib.suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), GCS_TIMEOUT),
    ):
        return True
    return False


def _named(pids: Iterable[int]) -> list[Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            name = os.path.basename(program).decode(errors="replace")
            if name in NAMES:
                found.append(Process(pid, _status(pid)[1], name))
    return found


def _mentions(pid: int, text: str) -> bool:
    with contextlib.suppress(OSError):
        return text in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return False


def _status(pid: int) -> tuple[str, str]:
    """The letter of its state, and when it began; X if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[19]
