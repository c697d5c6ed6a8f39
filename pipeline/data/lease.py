"""One run at a time in an output: two would record pairs twice.

A run that was killed cannot give its lease back. On the same machine the next one sees that the
process is gone and goes on at once; from elsewhere it watches for EXPIRY seconds whether the lease
is still being renewed. No clocks are compared.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.data import storage, uris
from pipeline.data.errors import RowError
from pipeline.data.words import printable

LEASE = "__lease__.json"

RENEWAL = 15.0
"""Seconds between two renewals."""

EXPIRY = 60.0
"""Seconds without a renewal, after which a lease is taken over."""


class LeaseError(RuntimeError):
    """Another run works in this output. The message says which."""


@contextlib.contextmanager
def hold(
    output: str, options: storage.StorageOptions, lost: Callable[[], None]
) -> Iterator[Callable[[], bool]]:
    """Hold the lease of ``output`` while the block runs. Gives a question: is it still held?

    Args:
        lost: called from another thread when another run has taken the lease over, which it does
            when this one could not renew it in time.

    Raises:
        LeaseError: another run holds it and is alive.
        RowError: the output cannot be written.
    """
    uri = uris.join(output, LEASE)
    mine = {
        "run": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "renewals": 0,
    }
    while not storage.create_bytes(uri, _bytes(mine), options):
        if _read(uri, options).get("run") == mine["run"]:
            break  # written, though the answer was lost
        _wait_until_dead(uri, output, options)
        storage.delete(uri, options)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(uri, mine, options, stop, lost), daemon=True)
    thread.start()

    def held() -> bool:
        return _read(uri, options).get("run") == mine["run"]

    try:
        yield held
    finally:
        stop.set()
        thread.join()
        if held():
            storage.delete(uri, options)


def holder(output: str, options: storage.StorageOptions) -> str | None:
    """Who holds the lease of ``output``, in words; None if nobody does, or a process that is gone.

    A run that was killed on another machine counts as well: nothing tells it from one at work.
    """
    found = _read(uris.join(output, LEASE), options)
    return _who(found) if found and _is_alive(found) is not False else None


def _who(found: dict[str, Any]) -> str:
    return printable(f"process {found.get('pid')} on {found.get('host')}")


def _is_alive(found: dict[str, Any]) -> bool | None:
    """Whether a lease's process is; None if it is another machine's, so that this is not known."""
    pid, process, here = found.get("pid"), found.get("process"), _process(os.getpid())
    if isinstance(pid, int) and process and here and process[:2] == here[:2]:
        return bool(_process(pid) == process)
    return None


def _wait_until_dead(uri: str, output: str, options: storage.StorageOptions) -> None:
    first = _read(uri, options)
    who = _who(first)
    refusal = LeaseError(
        f"output {uris.redact(output)}: another run ({who}) works in it; wait for its end, or "
        "choose another output"
    )
    alive = _is_alive(first)
    if alive:
        raise refusal
    if alive is False:
        return
    if first:
        print(
            f"an earlier run ({who}) has not given this output back; waiting up to {EXPIRY:.0f} s "
            "to see whether it is alive",
            file=sys.stderr,
            flush=True,
        )
    waited = 0.0
    while waited < EXPIRY:
        time.sleep(1)
        waited += 1
        seen = _read(uri, options)
        if not seen and not storage.exists(uri, options):
            return
        if seen != first:
            raise refusal


def _renew(
    uri: str,
    mine: dict[str, Any],
    options: storage.StorageOptions,
    stop: threading.Event,
    lost: Callable[[], None],
) -> None:
    while not stop.wait(RENEWAL):
        with contextlib.suppress(RowError):  # the storage is away: the next renewal may get through
            seen = _read(uri, options)
            if seen.get("run", mine["run"]) != mine["run"]:
                lost()
                return
            mine["renewals"] += 1
            storage.write_bytes(uri, _bytes(mine), options)


def _read(uri: str, options: storage.StorageOptions) -> dict[str, Any]:
    """What the lease says; nothing when it is gone or cannot be read."""
    try:
        found = json.loads(storage.read_bytes(uri, options))
    except (RowError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(lease: dict[str, Any]) -> bytes:
    return json.dumps(lease).encode()


def _process(pid: int) -> list[str] | None:
    """What tells a process from all others: this boot, its number space, when it began.

    None if there is no such process, or nothing to tell it by (systems without /proc).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return [boot, space, start]
