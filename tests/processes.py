"""Processes of this machine, as /proc shows them."""

import os
from pathlib import Path


def processes_naming(text: str) -> list[int]:
    """The ids of all others whose command line holds ``text``."""
    return [pid for pid in _all() if pid != os.getpid() and text in _command_line(pid)]


def descendants(parent: int) -> list[int]:
    """The ids of a process, of those that it started, of those that these started, and so on."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
    found = [parent]
    for pid in found:
        found += children.get(pid, [])
    return found


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""
