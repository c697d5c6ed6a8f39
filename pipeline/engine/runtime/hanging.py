"""End a process whose work makes no progress: storage that never answers, a device that hangs.

Its work is begun again elsewhere, as after a crash, and given up after some tries.
"""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator

LOOKS = 20
"""How often a watchdog looks within the time that it allows."""

LONGEST_LOOK = 5.0
"""Most seconds between two looks."""

MERCY = 60.0
"""Seconds more after which a process ends if Python itself hangs, so that no thread can look."""

STANDARD_ERROR = 2


class Watchdog:
    """Ends this process when one piece of work lasts too long.

    Time in which the process was stopped hardly counts.

    Args:
        seconds: seconds that a piece of work may take; 0: any time.
        tell: takes what hangs, before the process ends.
    """

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self.work: list[str] = []  # a new list for each piece; empty: idle
        self.closed = threading.Event()
        if seconds:
            threading.Thread(target=self._look, name="watchdog", daemon=True).start()

    def begin(self, what: str) -> None:
        """Note that a piece of work begins and the one before it is over."""
        self.work = [what]

    def end(self) -> None:
        """Note that no work is under way."""
        self.work = []

    def close(self) -> None:
        """Stop watching."""
        self.end()
        self.closed.set()

    @contextlib.contextmanager
    def limited(self, what: str) -> Iterator[None]:
        """Do ``begin`` and ``end`` around a block."""
        self.begin(what)
        try:
            yield
        finally:
            self.end()

    def _look(self) -> None:
        pause = min(LONGEST_LOOK, self.seconds / LOOKS)
        seen, lasted, last = self.work, 0.0, time.monotonic()
        while not self.closed.wait(pause):
            now = time.monotonic()
            lasted, last = lasted + min(now - last, 2 * pause), now
            if not self.work or self.work is not seen:
                seen, lasted = self.work, 0.0
            if not seen:
                faulthandler.cancel_dump_traceback_later()
                continue
            faulthandler.dump_traceback_later(
                self.seconds - lasted + MERCY, exit=True, file=STANDARD_ERROR
            )
            if lasted >= self.seconds:
                self._end_process(seen[0])
        faulthandler.cancel_dump_traceback_later()

    def _end_process(self, what: str) -> None:
        faulthandler.dump_traceback(file=STANDARD_ERROR)  # for Ray's log of the worker
        with contextlib.suppress(Exception):
            self.tell(what)
        os._exit(1)
