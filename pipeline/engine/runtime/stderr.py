"""Capture what Ray's core, which has no Python logger, writes to standard error while it starts.

With RAY_BACKEND_LOG_LEVEL set, that is a line which says so. If a start fails, it may name the
reason.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Let nothing reach this process's standard error while the block runs.

    Yields:
        A list that has the lines written, once the block is over.
    """
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        own = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
