"""What Ray's core, which is no Python and has no logger, writes to standard error at its start."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

NO_NEWS = "Set ray log level from environment variable"
"""It says that it has taken the level at which it is silent."""


@dataclass
class Words:
    """What was written, once the block is through."""

    lines: list[str] = field(default_factory=list)


@contextlib.contextmanager
def kept_back() -> Iterator[Words]:
    """Nothing reaches the process's standard error while the block runs; what would have is kept.

    Behind the block it is said after all, without ``NO_NEWS``; not where the block failed, for then
    its caller has better words.
    """
    words = Words()
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        own = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield words
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            kept.seek(0)
            words.lines += kept.read().decode(errors="replace").splitlines()
    for line in words.lines:
        if NO_NEWS not in line:
            logger.warning("%s", line)
