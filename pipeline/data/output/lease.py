"""One run at a time in an output: two would record pairs twice.

A run that was killed cannot give its lease back. On the same machine the next one sees that the
process is gone and goes on; from elsewhere, or where it may not see the process, it watches for
EXPIRY seconds whether the lease is still being renewed. No clocks are compared.

Several may find one dead at the same time. Not every storage can replace a file only if nobody else
has: each writes its own lease over the dead one, the last one stays, and after SETTLE seconds each
looks whose it is.

A run that was paused for longer than EXPIRY may wake up when the output is another's by now. Before
each of its writes it looks whose the lease is (``Lease.check``), on every machine that it uses.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.storage import files, uris
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

INSIST = 30.0
"""Seconds after which a run that has lost its lease is told so again, if it has not ended."""

TRIES = 5
"""Of making a lease or taking one over: whoever comes too late sees the winner at the next one."""


class LeaseError(RuntimeError):
    """Another run works in this output. The message says which."""


class LostError(RuntimeError):
    """This run's output is another run's by now. Nothing more may be written there."""


@dataclass(frozen=True)
class Lease:
    """A lease that a run has taken. Small: it travels with each task."""

    output: str
    run: str
    options: files.StorageOptions

    def held(self) -> bool:
        """Whether it is still this run's; also while the storage is away."""
        try:
            found = _read(uris.join(self.output, LEASE), self.options)
        except RowError:  # that makes it nobody else's
            return True
        return not _is_lost(found, self.run)

    def check(self) -> None:
        """To be asked before each write.

        Raises:
            LostError: it is not this run's any more.
        """
        if not self.held():
            raise LostError(
                f"output {uris.redact(self.output)}: another run has taken it over, or its {LEASE} "
                "was deleted; this run was stopped and writes nothing more there"
            )


def unfenced() -> None:
    """In place of ``Lease.check``, for those who work where nobody else does."""


@contextlib.contextmanager
def hold(output: str, options: files.StorageOptions, lost: Callable[[], None]) -> Iterator[Lease]:
    """Hold the lease of ``output`` while the block runs.

    Args:
        lost: called from another thread when another run has taken the lease over, which it does
            when this one could not renew it in time; again and again until the block has ended.

    Raises:
        LeaseError: another run holds it and is alive.
        LostError: in place of whatever ended the block, if the lease was lost by then.
        RowError: the output cannot be written, or the lease not be read.
    """
    uri = uris.join(output, LEASE)
    mine: dict[str, Any] = {
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
            if _is_run(_read(uri, options), mine["run"]):
                files.delete(uri, options)
        raise
    ours, stop = Lease(output, mine["run"], options), threading.Event()
    thread = threading.Thread(target=_renew, args=(uri, mine, options, stop, lost), daemon=True)
    thread.start()
    try:
        yield ours
    except (Exception, KeyboardInterrupt):
        stop.set()
        ours.check()
        raise
    finally:
        stop.set()
        thread.join()
        if ours.held():
            _give_back(uri, options)


def _take(uri: str, output: str, mine: dict[str, Any], options: files.StorageOptions) -> None:
    """Make the lease, or write one's own over a dead run's.

    Raises:
        LeaseError, RowError: see ``hold``.
    """
    for _ in range(TRIES):
        looked = time.monotonic()
        found = _read(uri, options)
        if found is None:
            if not files.create_bytes(uri, _bytes(mine), options):
                continue  # another one was quicker
            if not files.create_bytes(uri, _bytes(mine), options):
                return  # what is there is written over by nobody
        elif _is_run(found, mine["run"]):
            return  # written, though the answer was lost
        else:
            _wait_until_dead(uri, found, output, options)
            looked = time.monotonic()
            tag = files.tag_of(uri, options)
            if _read(uri, options) != found:
                continue  # another one was quicker
            if not files.replace_bytes(uri, _bytes(mine), tag, options):
                continue
        quick = time.monotonic() - looked < SETTLE
        time.sleep(SETTLE if quick else 2 * RENEWAL)
        if _is_run(_read(uri, options), mine["run"]):
            return
    raise LeaseError(
        f"output {uris.redact(output)}: its {LEASE} is there for those who would make it and not "
        "for those who read it, or changes all the time; see that no other run is started there, "
        "delete that file, or choose another output"
    )


def _give_back(uri: str, options: files.StorageOptions) -> None:
    """If that fails it says so and raises nothing: all work is done, or the reason why not is."""
    try:
        files.delete(uri, options)
    except RowError as error:
        logger.warning(
            f"warning: {error}; the next run in this output may wait {EXPIRY:.0f} s to see that "
            "this one has ended",
        )


def holder(output: str, options: files.StorageOptions) -> str | None:
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
    """Whether a lease's process is; None if that is not known: it is another machine's, or there is
    a process of its number that this one may not see."""
    pid, process, here = found.get("pid"), found.get("process"), _process(os.getpid())
    if isinstance(pid, int) and isinstance(process, list) and here and process[:2] == here[:2]:
        there = _process(pid)
        return there == process if there or not _exists(pid) else None
    return None


def _exists(pid: int) -> bool:
    """Whether a process of this number space has it: /proc may hide other users' (``hidepid``)."""
    try:
        os.kill(max(pid, 1), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _refusal(output: str, found: dict[str, Any]) -> LeaseError:
    return LeaseError(
        f"output {uris.redact(output)}: another run ({_who(found)}) works in it; wait for its end, "
        "or choose another output"
    )


def _wait_until_dead(
    uri: str, first: dict[str, Any], output: str, options: files.StorageOptions
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
    options: files.StorageOptions,
    stop: threading.Event,
    lost: Callable[[], None],
) -> None:
    renewed = _clock()
    while not stop.wait(RENEWAL):
        with contextlib.suppress(RowError):  # the storage is away: the next renewal may get through
            started = _clock()
            tag = files.tag_of(uri, options)
            is_lost = _is_lost(_read(uri, options), mine["run"])
            if not is_lost:
                mine["renewals"] += 1
                if not files.replace_bytes(uri, _bytes(mine), tag, options):
                    is_lost = _is_lost(_read(uri, options), mine["run"])
            if not is_lost and tag is None and _paused(renewed, started):
                # Between look and write another run may have come, and been written over.
                files.delete(uri, options)
                is_lost = True
            if is_lost:
                break
            renewed = started
    while not stop.is_set():
        lost()
        stop.wait(INSIST)


def _paused(renewed: float, started: float) -> bool:
    """Whether a renewal took so long, so late, that another run may hold a lease by then: it waits
    for EXPIRY seconds, writes, and looks at it again after SETTLE seconds."""
    now = _clock()
    return now - renewed > EXPIRY and now - started > SETTLE


def _clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _is_lost(found: dict[str, Any] | None, run: str) -> bool:
    """Whether a lease is another run's, or gone. What no run wrote is nobody's: some storages show
    a file while it is being written."""
    return found is None or (found != {} and not _is_run(found, run))


def _read(uri: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """What the lease says, which is nothing if no run wrote it; None when it is gone.

    Raises:
        RowError: ``access_denied`` or ``read_failed``: nobody knows.
    """
    try:
        found = json.loads(files.read_bytes(uri, options))
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_run(found: dict[str, Any] | None, run: str) -> bool:
    return found is not None and found.get("run") == run


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
