"""Host memory of a process that only evaluates losses: freed memory is kept for the next one."""

import ctypes
import platform

# Option numbers from glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

LARGEST = 32 << 20
"""Largest block, in bytes, that is taken from the heap and reused. Larger blocks would fragment
the heap: eight images of 1024 px took 8.5 GB instead of 6.0."""

KEPT = 16 * LARGEST
"""Free bytes that the heap keeps; it returns the rest to the system."""


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it to the system.

    On a CPU, each evaluation allocates and frees the same activations. By default glibc returns
    them to the system in between, so that each page must be faulted in and zeroed again. All
    threads share one arena, so that the thread that ticks gains as much as the main thread. This
    affects the whole process: call it once, early, and only in a process of our own.

    Returns:
        True if the options were set; False with another C library than glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, KEPT), (M_ARENA_MAX, 1))
    return all(mallopt(name, value) for name, value in options)
