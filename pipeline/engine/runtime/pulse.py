"""Notice that Ray has died, and end this process with a line that says so.

Without this, Ray's core would end the driver after a minute without a word if the GCS has died. If
a raylet has died, it would end a driver that asks something of the raylet, also without a word, and
leave one that only waits.
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
"""Seconds between two looks at a cluster's GCS, until it counts as gone, and for its answer.

It may start again within a minute, after which Ray's core ends the driver.
"""

NAMES = {
    "gcs_server": "Ray's control service (gcs_server)",
    "raylet": "Ray's node manager (raylet)",
}
"""Names of Ray's main processes in messages, by program."""


@dataclass(frozen=True)
class Process:
    """One of Ray's processes on this machine.

    Attributes:
        pid: its id.
        began: when it began, which tells it from a later process with the same id.
        name: its program, one of ``NAMES``.
    """

    pid: int
    began: str
    name: str

    def is_gone(self) -> bool:
        """Return whether it has ended. Its parent need not have noticed."""
        state, began = _status(self.pid)
        return state in "ZX" or began != self.began


def of_folder(folder: str) -> list[Process]:
    """Return the main processes of a Ray that has its files in ``folder``."""
    return _named(pid for pid in watcher.processes_of(folder))


def of_cluster() -> list[Process]:
    """Return the raylet that this driver of a cluster is connected to, if it is visible here."""
    here = ray.get_runtime_context().get_node_id()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    sockets = [node["RayletSocketName"] for node in nodes if node["NodeID"] == here]
    return [
        found
        for found in _named(int(name) for name in os.listdir("/proc") if name.isdigit())
        if found.name == "raylet" and any(_mentions(found.pid, name) for name in sockets if name)
    ]


def watch(processes: list[Process], gcs: str | None) -> Callable[[], None]:
    """Start a thread that watches Ray's processes and its GCS.

    If one of them is gone, this process ends with exit code 1 and a line that says so.

    Args:
        processes: processes that must live.
        gcs: host:port at which the GCS must listen; None: it is not watched.

    Returns:
        A function that stops the thread.
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
    """Return whether a program listens at host:port."""
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
    """Return the letter of a process's state and when it began; X if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[19]
