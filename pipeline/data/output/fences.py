"""When a job checks, before it writes, that the output is still its own."""

import math
import time
from collections.abc import Callable

LASTING = 1.0
"""Seconds for which a check counts among the files of one block.

It is less than ``lease.SETTLE``: a job that takes over writes nothing before.
"""


def unfenced() -> None:
    """Check nothing: stands in for ``Lease.check`` where no lease is needed."""


def lasting(check: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls ``check``, unless it has done so in the last LASTING seconds."""
    checked = -math.inf

    def check_again() -> None:
        nonlocal checked
        now = clock()
        if now - checked >= LASTING:
            check()
            checked = now

    return check_again


def clock() -> float:
    """Return seconds that also count while the machine sleeps, if the system offers that."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
