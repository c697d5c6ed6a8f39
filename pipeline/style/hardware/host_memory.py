"""How a process that does nothing but evaluate treats its host memory."""

import ctypes
import platform

# Of glibc's malloc.h; see mallopt(3).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8

LARGEST = 32 << 20
"""Bytes of a block that is used again. Of larger ones the heap would break into pieces: eight
images of 1024 px took 8.5 GB in place of 6.0."""

KEPT = 16 * LARGEST
"""Bytes: what lies free beyond as many goes back to the system."""


def keep_freed_memory() -> bool:
    """Let this process use freed memory again, where glibc would give it back to the system.

    On a CPU an evaluation allocates and frees the same activations each time. By default glibc
    returns them in between, and each page is faulted in anew and filled with zeros. Threads share
    one arena, so that the thread that ticks is served like the first one. Call it early, once, in a
    process of one's own: it holds for all of it.

    Returns:
        Whether it could: False where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    options = ((M_MMAP_THRESHOLD, LARGEST), (M_TRIM_THRESHOLD, KEPT), (M_ARENA_MAX, 1))
    return all(mallopt(name, value) for name, value in options)
