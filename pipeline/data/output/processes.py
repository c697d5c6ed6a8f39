"""Which process wrote a lease, and whether that process is alive."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identify(pid: int) -> list[str] | None:
    """Return what tells a process from all others: boot id, PID namespace and start time.

    Returns:
        None if there is no such process, or if the system has no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return [boot, space, start]


def is_alive(found: Mapping[str, Any]) -> bool | None:
    """Return whether the process that wrote a lease is alive; None if that is not known.

    It is not known of a process of another machine or namespace, nor of one that has the right PID
    and may not be inspected.

    Args:
        found: the lease's content.
    """
    pid, process, here = found.get("pid"), found.get("process"), identify(os.getpid())
    if isinstance(pid, int) and isinstance(process, list) and here and process[:2] == here[:2]:
        there = identify(pid)
        return there == process if there or not _exists(pid) else None
    return None


def _exists(pid: int) -> bool:
    """Return whether a process has this PID; /proc may hide other users' (``hidepid``)."""
    try:
        os.kill(max(pid, 1), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
