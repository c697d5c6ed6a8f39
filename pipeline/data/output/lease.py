"""The lease of an output: one job at a time, since two would record pairs twice.

A killed job cannot give its lease back. A job on the same machine sees that the process is gone and
takes over at once. A job on another machine, or one that may not see the process, watches for
``EXPIRY`` seconds whether the lease is still being renewed. No clocks are compared.

Several jobs may find a lease dead at the same time. Not every storage can replace a file only if
nobody else has done so. Each job therefore writes its own lease over the dead one, and the last one
stays. After ``SETTLE`` seconds each job reads the lease to see who has won.

A job that was paused for longer than ``EXPIRY`` may wake up when another job owns the output.
Before each write it checks the lease (``Lease.check``), on every machine that it uses; ``fences``
spares files that are written one after another most checks.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.output import fences, lease_file, processes
from pipeline.data.storage import conditional, files, uris

logger = logging.getLogger(__name__)

LEASE = "__lease__.json"
"""File in the output that says which job works there."""

RENEWAL = 15.0
"""Seconds between two renewals."""

EXPIRY = 60.0
"""Seconds without a renewal after which a lease is taken over."""

SETTLE = 2.0
"""Seconds between taking over a dead lease and checking that no other job did the same.

A job that needed longer than this between reading the dead lease and writing its own waits for two
renewals instead: within that time a quicker job notices that it has lost.
"""

INSIST = 30.0
"""Seconds between two calls of ``lost`` to a job that has lost its lease and has not ended."""

TRIES = 5
"""Attempts to create a lease or take one over; a job that comes too late sees the winner's."""


class LeaseError(RuntimeError):
    """Another job is writing to this output. The message says which one."""


class LostError(RuntimeError):
    """Another job has taken over this job's output. Nothing more may be written there."""


@dataclass(frozen=True)
class Lease:
    """A lease that a job has taken. It is small, since it travels with each task.

    Attributes:
        output: URI of the output.
        run: random name of the job.
        options: storage options by scheme.
    """

    output: str
    run: str
    options: files.StorageOptions

    def held(self) -> bool:
        """Return whether this job still holds the lease. True while the storage does not answer."""
        try:
            found = lease_file.read(uris.join(self.output, LEASE), self.options)
        except RowError:  # which does not mean that another job has it
            return True
        return not lease_file.is_lost(found, self.run)

    def check(self) -> None:
        """Check before a write that this job still holds the lease.

        Raises:
            LostError: it does not.
        """
        if not self.held():
            raise LostError(
                f"output {uris.redact(self.output)}: another job has taken it over, or its {LEASE} "
                "was deleted; this job was stopped and writes nothing more there"
            )


@contextlib.contextmanager
def hold(output: str, options: files.StorageOptions, lost: Callable[[], None]) -> Iterator[Lease]:
    """Hold the lease of ``output`` while the block runs.

    Args:
        output: URI of the output.
        options: storage options by scheme.
        lost: called from another thread, every ``INSIST`` seconds until the block ends, once
            another job has taken the lease over because this one could not renew it in time.

    Yields:
        The lease, with which tasks check that it is still held.

    Raises:
        LeaseError: another job holds the lease and is alive.
        LostError: the lease was lost before the block raised; replaces that exception.
        RowError: the output cannot be written, or the lease cannot be read.
    """
    uri = uris.join(output, LEASE)
    mine: dict[str, Any] = {
        "run": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": processes.identify(os.getpid()),
        "renewals": 0,
    }
    try:
        _take(uri, output, mine, options)
    except BaseException:  # Ctrl-C too, which may come while this waits for SETTLE
        with contextlib.suppress(RowError):
            if lease_file.is_run(lease_file.read(uri, options), mine["run"]):
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
    """Create the lease, or write ``mine`` over that of a dead job.

    Raises:
        LeaseError, RowError: see ``hold``.
    """
    for _ in range(TRIES):
        looked = time.monotonic()
        found = lease_file.read(uri, options)
        if found is None:
            if not conditional.create_bytes(uri, lease_file.to_bytes(mine), options):
                continue  # another job was quicker
            if not conditional.create_bytes(uri, lease_file.to_bytes(mine), options):
                return  # this storage refuses to replace a file that exists
        elif lease_file.is_run(found, mine["run"]):
            return  # it was written although the answer was lost
        else:
            _wait_until_dead(uri, found, output, options)
            looked = time.monotonic()
            tag = conditional.tag_of(uri, options)
            if lease_file.read(uri, options) != found:
                continue  # another job was quicker
            if not conditional.replace_bytes(uri, lease_file.to_bytes(mine), tag, options):
                continue
        quick = time.monotonic() - looked < SETTLE
        time.sleep(SETTLE if quick else 2 * RENEWAL)
        if lease_file.is_run(lease_file.read(uri, options), mine["run"]):
            return
    raise LeaseError(
        f"output {uris.redact(output)}: its {LEASE} exists but cannot be read, or it keeps "
        "changing; make sure that no other job starts there, delete that file, or choose another "
        "output"
    )


def _give_back(uri: str, options: files.StorageOptions) -> None:
    """Delete the lease. Log a failure instead of raising, as the work is over either way."""
    try:
        files.delete(uri, options)
    except RowError as error:
        logger.warning(
            f"warning: {error}; the next job in this output may wait {EXPIRY:.0f} s to see that "
            "this one has ended",
        )


def holder(output: str, options: files.StorageOptions) -> str | None:
    """Return who holds the lease of ``output``, in words; None if nobody alive does.

    A job that was killed on another machine counts as alive: nothing tells the two apart.

    Raises:
        RowError: the lease cannot be read.
    """
    found = lease_file.read(uris.join(output, LEASE), options)
    return lease_file.who(found) if found and processes.is_alive(found) is not False else None


def _refusal(output: str, found: dict[str, Any]) -> LeaseError:
    return LeaseError(
        f"output {uris.redact(output)}: another job ({lease_file.who(found)}) is writing to it; "
        "wait until it ends, or choose another output"
    )


def _wait_until_dead(
    uri: str, first: dict[str, Any], output: str, options: files.StorageOptions
) -> None:
    """Return once the job that wrote ``first`` is known to be dead or has given the lease back.

    Raises:
        LeaseError: that job is alive.
    """
    alive = processes.is_alive(first)
    if alive:
        raise _refusal(output, first)
    if alive is False:
        return
    logger.info(
        f"an earlier job ({lease_file.who(first)}) has not given this output back; waiting up to "
        f"{EXPIRY:.0f} s to see whether it is alive",
    )
    waited = 0.0
    while waited < EXPIRY:
        time.sleep(1)
        waited += 1
        seen = lease_file.read(uri, options)
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
    """Renew the lease until ``stop`` is set; once it is lost, call ``lost`` until then."""
    renewed = fences.clock()
    while not stop.wait(RENEWAL):
        with contextlib.suppress(RowError):  # if storage does not answer, the next renewal tries
            started = fences.clock()
            tag = conditional.tag_of(uri, options)
            is_lost = lease_file.is_lost(lease_file.read(uri, options), mine["run"])
            if not is_lost:
                mine["renewals"] += 1
                if not conditional.replace_bytes(uri, lease_file.to_bytes(mine), tag, options):
                    is_lost = lease_file.is_lost(lease_file.read(uri, options), mine["run"])
            if not is_lost and tag is None and _paused(renewed, started):
                # Another job may have written its lease after the read, and this one replaced it.
                files.delete(uri, options)
                is_lost = True
            if is_lost:
                break
            renewed = started
    while not stop.is_set():
        lost()
        stop.wait(INSIST)


def _paused(renewed: float, started: float) -> bool:
    """Return whether another job may have taken over and settled during a renewal.

    It would have waited for EXPIRY seconds, written its lease, and read it after SETTLE seconds.

    Args:
        renewed: clock at the start of the last successful renewal.
        started: clock at the start of this renewal.
    """
    now = fences.clock()
    return now - renewed > EXPIRY and now - started > SETTLE
