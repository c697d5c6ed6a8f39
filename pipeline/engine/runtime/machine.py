"""Measure what this machine offers, or the container in which this process runs."""

import os
from collections.abc import Iterator
from pathlib import Path

LIMITS = {2: ("", "memory.max"), 1: ("memory", "memory.limit_in_bytes")}
"""Folder below /sys/fs/cgroup and file that has a group's limit, by version of cgroups."""


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use.

    That is the machine's memory, or a container's limit if that is lower.

    Args:
        root: folder that has ``proc`` and ``sys``.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Yield the limits in bytes of this process's group and of the groups above it, if visible."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = LIMITS[1 if controllers else 2]
        top = root / "sys/fs/cgroup" / folder
        # A container may see its own group at the top, under another name than outside.
        place = top if ".." in path else top / path.strip("/")
        for each in (place, *place.parents):
            if each.is_relative_to(top):
                try:
                    yield int((each / name).read_text())
                except (OSError, ValueError):  # not visible; "max"
                    continue
