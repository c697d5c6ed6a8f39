"""A container's limit of memory, as cgroups of both versions tell it."""

import os

import pytest

from pipeline.engine.runtime import machine

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MEMORY = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"sys/fs/cgroup/memory.max": "4096000"}, 4096000),
        ("0::/", {"sys/fs/cgroup/memory.max": "max"}, PHYSICAL),
        ("0::/a/b", {"sys/fs/cgroup/a/b/memory.max": "max"}, PHYSICAL),
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "8192"}, 8192),  # of the group above
        ("0::/../../x", {"sys/fs/cgroup/memory.max": "8192"}, 8192),
        ("5:cpu:/\n4:memory:/docker/1f", {f"{MEMORY}/memory.limit_in_bytes": "12288"}, 12288),
        ("4:cpu,memory:/u", {f"{MEMORY}/u/memory.limit_in_bytes": "12288"}, 12288),
        ("4:memory:/", {f"{MEMORY}/memory.limit_in_bytes": f"{2**63 - 4096}"}, PHYSICAL),
        ("5:cpu:/", {f"{MEMORY}/memory.limit_in_bytes": "12288"}, PHYSICAL),
        (None, {}, PHYSICAL),
    ],
)
def test_memory_is_the_machines_or_less_by_the_limit_of_a_group(tmp_path, group, files, expected):
    if group is not None:
        files = {**files, "proc/self/cgroup": group}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert machine.memory(tmp_path) == expected
    assert 0 < machine.memory() <= PHYSICAL
