"""What this machine, or the container that this process is in, has to offer."""

import os
from collections.abc import Iterator
from pathlib import Path

LIMITS = {2: ("", "memory.max"), 1: ("memory", "memory.limit_in_bytes")}
"""By version of cgroups: the folder below /sys/fs/cgroup, and the file that has a group's limit."""


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or less by a container's limit.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Of this process's group and those above it, as far as they are seen from here."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = LIMITS[1 if controllers else 2]
        top = root / "sys/fs/cgroup" / folder
        # A container may see its own group at the top, under whatever name it has outside.
        place = top if ".." in path else top / path.strip("/")
        for each in (place, *place.parents):
            if each.is_relative_to(top):
                try:
                    yield int((each / name).read_text())
                except (OSError, ValueError):  # not seen from here; "max"
                    continue
