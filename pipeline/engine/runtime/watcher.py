"""A small process that outlives its driver and deletes what a killed driver leaves behind.

A driver may end without a word: by SIGKILL, or by Ray's core, which runs no ``finally``. So it
tells the watcher beforehand what must not stay: the plan, which holds the manifest's URIs with
their signatures, and the folder and the processes of its own Ray. It tells the watcher to forget
what it has deleted itself.

The watcher is this module, run as a program. It reads from a pipe until that is closed, which the
kernel does for a dead driver. It imports only the standard library until there is work.
"""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GRACE = 1.0
"""Seconds in which the processes of a dead Ray may end by themselves."""

PATIENCE = 20.0
"""Seconds for which a driver that gives up waits for its watcher."""

KILLED = "this run's process, or its Ray, was ended (killed, or out of memory)"
"""Reason for a driver that could not give one: Ray's core may end it before ``pulse`` looks."""

Plan = tuple[str, str, "str | None", bytes]
"""Output, plan in it, id of the job that holds the output's lease, and pickled storage options."""

COMMAND = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from pipeline.engine.runtime import watcher; watcher.main()"
)
"""The watcher's program. With -m, a ``pipeline`` in the current folder would be taken for this."""

_lock = threading.Lock()
_left: dict[str, Any] = {}
_process: "subprocess.Popen[bytes] | None" = None


def remember(**left: Any) -> None:
    """Tell the watcher what must not stay. Start it if there is none.

    Args:
        left: ``plan``: what ``plan_of`` returned. ``ray``: the folder of this process's own Ray.
            ``why``: the reason why this process ends.
    """
    with _lock:
        _left.update(left)
        _send()


def forget(*names: str) -> None:
    """Tell the watcher what has been deleted. With nothing left, it ends."""
    with _lock:
        for name in names:
            _left.pop(name, None)
        _send()


def _send() -> None:
    global _process
    if _process is None and _left:
        path = os.pathsep.join(filter(None, sys.path))
        with contextlib.suppress(OSError):  # a job without it is still a job
            _process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a kill of the driver's group does not reach it
            )
    if _process is None or _process.stdin is None:
        return
    with contextlib.suppress(OSError):  # it may have been killed
        _process.stdin.write(pickle.dumps(_left))
        _process.stdin.flush()
        if not _left:
            _process.stdin.close()
    if not _left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _process.wait(1)
        _process = None


def give_up(why: str) -> None:
    """Have the watcher say why and clean up, then end this process with exit code 1."""
    remember(why=why)
    with open(os.devnull, "w") as nowhere:  # what Ray writes about its death does not help
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    with _lock:
        if _process is not None and _process.stdin is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                _process.stdin.close()
                _process.wait(PATIENCE)
        os._exit(1)


def plan_of(
    output: str, plan: str, options: Mapping[str, Any]
) -> tuple[str, str, str | None, bytes]:
    """Return what ``remember`` takes about a plan.

    The output's lease must be held: it tells later whether another job has begun there.
    """
    return output, plan, _holder(output, options), pickle.dumps(options)


def _holder(output: str, options: Mapping[str, Any]) -> str | None:
    """Return the id of the job that holds an output's lease; None if that is not known."""
    from pipeline.data.errors import RowError
    from pipeline.data.output import lease
    from pipeline.data.storage import files, uris

    try:
        found = json.loads(files.read_bytes(uris.join(output, lease.LEASE), options))
        return str(found["run"])
    except (RowError, ValueError, LookupError, TypeError):
        return None


def processes_of(folder: str) -> list[int]:
    """Return the ids of the processes of a Ray that has its files in ``folder``.

    Without /proc, none are found.
    """
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit() and int(entry) != os.getpid() and _is_of(Path("/proc", entry), folder):
            found.append(int(entry))
    return found


def _is_of(process: Path, folder: str) -> bool:
    """Return whether a process writes its output there, or is a program of Ray that names it."""
    try:
        outputs = [os.readlink(process / "fd" / number) for number in ("1", "2")]
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or belongs to another user
        return False
    is_ray = any("/ray/" in word for word in words[:4])
    return any(f"{folder}/" in f"{name}/" for name in (*outputs, *(words if is_ray else ())))


def clear(folder: str, keep: bool = False) -> None:
    """End the processes that a dead Ray has left, and delete its files unless ``keep``."""
    ends = time.monotonic() + GRACE
    while processes_of(folder) and time.monotonic() < ends:
        time.sleep(0.1)
    for _ in range(20):
        left = processes_of(folder)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait for the driver's end, then clean up."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    left: dict[str, Any] = {}
    with contextlib.suppress(EOFError, pickle.UnpicklingError):  # killed while it wrote
        while True:
            left = pickle.load(sys.stdin.buffer)  # noqa: S301 (by the process that started it)
    if left:
        _clean_up(left)


def _clean_up(left: dict[str, Any]) -> None:
    end = "what is recorded stays, the same command does the rest"
    start = "\n" if sys.stderr.isatty() else ""  # below a bar
    _say(f"{start}error: {left.get('why', KILLED)}; {end}")
    if "plan" in left:
        _delete_plan(*left["plan"])
    if "ray" in left:
        clear(left["ray"])


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed
        print(line, file=sys.stderr, flush=True)


def _delete_plan(output: str, plan: str, holder: str | None, options: bytes) -> None:
    """Delete the plan unless it is another job's by now."""
    from pipeline.data.errors import RowError
    from pipeline.data.storage import files

    known = pickle.loads(options)  # noqa: S301 (as above)
    if _holder(output, known) not in (holder, None):
        return
    try:
        files.delete(plan, known)
    except RowError as error:
        _say(
            f"warning: {error}; it holds the manifest's URIs as they are, signatures with them: "
            "delete it"
        )
