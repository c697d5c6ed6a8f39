"""One run at a time in an output: two would record pairs twice.

A run that was killed cannot give its lease back. On the same machine the next one sees that the
process is gone and goes on; from elsewhere it watches for EXPIRY seconds whether the lease
is still being renewed. No clocks are compared.

Several may find one dead at the same time. Not every storage can replace a file only if nobody else
has: each writes its own lease over the dead one, the last one stays, and after SETTLE seconds each
looks whose it is.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.data import storage, uris
from pipeline.data.errors import RowError
from pipeline.data.words import printable

logger = logging.getLogger(__name__)

LEASE = "__lease__.json"

RENEWAL = 15.0
"""Seconds between two renewals."""

EXPIRY = 60.0
"""Seconds without a renewal, after which a lease is taken over."""

SETTLE = 2.0
"""Seconds after which a run that took a dead one's place sees whether another did so as well. One
that took longer from its look at the dead lease to its own waits for two renewals, in which whoever
was quicker finds out."""

TRIES = 5
"""Of making a lease or taking one over: whoever comes too late sees the winner at the next one."""


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
        RowError: the output cannot be written, or the lease not be read.
    """
    uri = uris.join(output, LEASE)
    mine = {
        "run": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "renewals": 0,
    }
    try:
        _take(uri, output, mine, options)
    except BaseException:  # Ctrl-C as well, for which there is time in SETTLE
        with contextlib.suppress(RowError):
            if _is_run(_read(uri, options), mine):
                storage.delete(uri, options)
        raise
    stop, taken = threading.Event(), threading.Event()

    def tell() -> None:
        taken.set()
        lost()

    thread = threading.Thread(target=_renew, args=(uri, mine, options, stop, tell), daemon=True)
    thread.start()

    def held() -> bool:
        try:
            return not taken.is_set() and _is_run(_read(uri, options), mine)
        except RowError:  # the storage is away: that makes it nobody else's
            return True

    try:
        yield held
    finally:
        stop.set()
        thread.join()
        if held():
            _give_back(uri, options)


def _take(uri: str, output: str, mine: dict[str, Any], options: storage.StorageOptions) -> None:
    """Make the lease, or write one's own over a dead run's.

    Raises:
        LeaseError, RowError: see ``hold``.
    """
    for _ in range(TRIES):
        if storage.create_bytes(uri, _bytes(mine), options):
            return
        found = _read(uri, options)
        if found is None:
            continue  # given back since
        if _is_run(found, mine):
            return  # written, though the answer was lost
        _wait_until_dead(uri, found, output, options)
        looked = time.monotonic()
        if _read(uri, options) != found:
            continue  # another one was quicker
        storage.write_bytes(uri, _bytes(mine), options)
        quick = time.monotonic() - looked < SETTLE
        time.sleep(SETTLE if quick else 2 * RENEWAL)
        if _is_run(_read(uri, options), mine):
            return
    raise LeaseError(
        f"output {uris.redact(output)}: its {LEASE} is there for those who would make it and not "
        "for those who read it, or changes all the time; see that no other run is started there, "
        "delete that file, or choose another output"
    )


def _give_back(uri: str, options: storage.StorageOptions) -> None:
    """If that fails it says so and raises nothing: all work is done, or the reason why not is."""
    try:
        storage.delete(uri, options)
    except RowError as error:
        logger.warning(
            f"warning: {error}; the next run in this output may wait {EXPIRY:.0f} s to see that "
            "this one has ended",
        )


def holder(output: str, options: storage.StorageOptions) -> str | None:
    """Who holds the lease of ``output``, in words; None if nobody does, or a process that is gone.

    A run that was killed on another machine counts as well: nothing tells it from one at work.

    Raises:
        RowError: the lease cannot be read.
    """
    found = _read(uris.join(output, LEASE), options)
    return _who(found) if found and _is_alive(found) is not False else None


def _who(found: dict[str, Any]) -> str:
    return printable(f"process {found.get('pid')} on {found.get('host')}")


def _is_alive(found: dict[str, Any]) -> bool | None:
    """Whether a lease's process is; None if it is another machine's, so that this is not known."""
    pid, process, here = found.get("pid"), found.get("process"), _process(os.getpid())
    if isinstance(pid, int) and isinstance(process, list) and here and process[:2] == here[:2]:
        return bool(_process(pid) == process)
    return None


def _refusal(output: str, found: dict[str, Any]) -> LeaseError:
    return LeaseError(
        f"output {uris.redact(output)}: another run ({_who(found)}) works in it; wait for its end, "
        "or choose another output"
    )


def _wait_until_dead(
    uri: str, first: dict[str, Any], output: str, options: storage.StorageOptions
) -> None:
    """Return once the run of the lease ``first`` is known to be dead, or has given it back."""
    alive = _is_alive(first)
    if alive:
        raise _refusal(output, first)
    if alive is False:
        return
    logger.info(
        f"an earlier run ({_who(first)}) has not given this output back; waiting up to "
        f"{EXPIRY:.0f} s to see whether it is alive",
    )
    waited = 0.0
    while waited < EXPIRY:
        time.sleep(1)
        waited += 1
        seen = _read(uri, options)
        if seen is None:
            return
        if seen != first:
            raise _refusal(output, seen)


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
            if seen and not _is_run(seen, mine):
                lost()
                return
            mine["renewals"] += 1
            storage.write_bytes(uri, _bytes(mine), options)


def _read(uri: str, options: storage.StorageOptions) -> dict[str, Any] | None:
    """What the lease says, which is nothing if no run wrote it; None when it is gone.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: nobody knows.
    """
    try:
        found = json.loads(storage.read_bytes(uri, options))
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_run(found: dict[str, Any] | None, mine: dict[str, Any]) -> bool:
    return found is not None and found.get("run") == mine["run"]


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
