"""A small process that outlives its driver, and clears away what a killed one leaves behind.

A driver may end without a word: by SIGKILL, or by Ray's core, which runs no ``finally``. It tells
the watcher beforehand what must not stay: the plan, which holds the manifest's URIs with their
signatures, and the folder and the processes of its own Ray. What the driver has cleared away itself
it takes back.

The watcher is this module, run as a program. It reads from a pipe until that is closed, which the
kernel does for a dead driver. It loads nothing but the standard library before there is work.
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
"""Seconds for which a driver that cannot go on waits for its watcher."""

KILLED = "this run's process, or its Ray, was ended (killed, or out of memory)"
"""What happened to a driver that could not say: Ray's core may end it before ``pulse`` looks."""

Plan = tuple[str, str, "str | None", bytes]
"""The output, the plan in it, the run that holds the output's lease, and storage options."""

COMMAND = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from pipeline.engine.runtime import watcher; watcher.main()"
)
"""The watcher's program. With -m, a ``pipeline`` in the current folder would be taken for this."""

_lock = threading.Lock()
_left: dict[str, Any] = {}
_process: "subprocess.Popen[bytes] | None" = None


def remember(**left: Any) -> None:
    """Tell the watcher what must not stay; it is started if there is none.

    Args:
        left: ``plan``: what ``plan_of`` says. ``ray``: the folder of this
            process's own Ray. ``why``: what happens to this process.
    """
    with _lock:
        _left.update(left)
        _send()


def forget(*names: str) -> None:
    """Take back what has been cleared away. With nothing left the watcher ends."""
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
                start_new_session=True,  # whoever kills the driver's group leaves it alive
            )
    if _process is None or _process.stdin is None:
        return
    with contextlib.suppress(OSError):  # somebody has ended it
        _process.stdin.write(pickle.dumps(_left))
        _process.stdin.flush()
        if not _left:
            _process.stdin.close()
    if not _left:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _process.wait(1)
        _process = None


def give_up(why: str) -> None:
    """End this process at once with exit code 1, once the watcher has cleared up and said why."""
    remember(why=why)
    with open(os.devnull, "w") as nowhere:  # what Ray says of its death is no help
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
    """What ``remember`` is told of a plan. The output's lease must be held: it tells later whether
    another run has begun there."""
    return output, plan, _holder(output, options), pickle.dumps(options)


def _holder(output: str, options: Mapping[str, Any]) -> str | None:
    """Which run holds the lease of an output; None if that is not known."""
    from pipeline.data.errors import RowError
    from pipeline.data.output import lease
    from pipeline.data.storage import files, uris

    try:
        found = json.loads(files.read_bytes(uris.join(output, lease.LEASE), options))
        return str(found["run"])
    except (RowError, ValueError, LookupError, TypeError):
        return None


def processes_of(folder: str) -> list[int]:
    """The ids of the processes that a Ray with its files in ``folder`` has started.

    Systems without /proc show none.
    """
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit() and int(entry) != os.getpid() and _is_of(Path("/proc", entry), folder):
            found.append(int(entry))
    return found


def _is_of(process: Path, folder: str) -> bool:
    """Whether its output goes there, as a worker's, or it is one of Ray's programs and names it."""
    try:
        outputs = [os.readlink(process / "fd" / number) for number in ("1", "2")]
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or is somebody else's
        return False
    is_ray = any("/ray/" in word for word in words[:4])
    return any(f"{folder}/" in f"{name}/" for name in (*outputs, *(words if is_ray else ())))


def clear(folder: str, keep: bool = False) -> None:
    """End what a Ray that is gone has left running, and delete its files unless ``keep``."""
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
    """Wait for the driver's end, then clear up."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    left: dict[str, Any] = {}
    with contextlib.suppress(EOFError, pickle.UnpicklingError):  # killed amid a word
        while True:
            left = pickle.load(sys.stdin.buffer)  # noqa: S301 (by the process that started it)
    if left:
        _clear_up(left)


def _clear_up(left: dict[str, Any]) -> None:
    end = "what is recorded stays, the same command does the rest"
    start = "\n" if sys.stderr.isatty() else ""  # below a bar
    _say(f"{start}error: {left.get('why', KILLED)}; {end}")
    if "plan" in left:
        _delete_plan(*left["plan"])
    if "ray" in left:
        clear(left["ray"])


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(line, file=sys.stderr, flush=True)


def _delete_plan(output: str, plan: str, holder: str | None, options: bytes) -> None:
    """Delete the plan unless it is another run's by now."""
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
