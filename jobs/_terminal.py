"""What a command shows while it works: one live line on a terminal, else a line now and then.

This module loads only the standard library: its first line must appear before PyTorch and Ray load.
"""

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from jobs._live_line import ASCII, UNICODE, Marks, live_line, outcome, pieces
from pipeline.data.words import duration
from pipeline.engine.progress import Activity, OnProgress, Progress

LINE_INTERVAL = 60.0
"""Seconds between two lines where there is no terminal."""

FRAME = 0.2
"""Seconds between two drawings of the live line."""

WORTH_A_LINE = 1.0
"""Shortest activity in seconds that stays on the terminal after its end."""

DEFAULT_COLUMNS = 80
"""Columns of a terminal that does not tell its width."""

ERASE = "\r\x1b[K"
"""Clears the cursor's line."""


NO_LINE = Progress(activity=Activity("", ""))
"""A job that has said nothing yet."""


@contextlib.contextmanager
def shown(*, quiet: bool = False, verbose: bool = False) -> Iterator[OnProgress]:
    """Show a job's progress on standard error.

    A terminal has a live line, which is cleared when the block ends, even by an error. What the
    program prints in the block appears above it.

    Args:
        quiet: show nothing.
        verbose: show figures for experts, too.

    Yields:
        The function to call with each ``Progress``.
    """
    if quiet:
        yield lambda _: None
        return
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    screen: Lines | Live = Live(sys.stderr, verbose) if live else Lines(verbose)
    with screen:
        yield screen.tell


@contextlib.contextmanager
def busy(doing: str, done: str, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal that a block is at work, for how long, and in the end that it is done.

    Where there is no terminal, or with ``quiet``, nothing is shown.
    """
    with shown(quiet=quiet or not sys.stderr.isatty()) as tell:
        tell(Progress(activity=Activity(doing, done)))
        yield


class Lines:
    """Progress without a terminal: a line for each activity, and one a minute."""

    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.now, self.since, self.said = NO_LINE, 0.0, 0.0
        self.stop = threading.Event()
        self.lock = threading.RLock()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Lines":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=10)

    def tell(self, progress: Progress) -> None:
        """Keep the progress, and write a line if a new activity begins."""
        with self.lock:
            fresh = progress.activity != self.now.activity
            self.now = progress
            if fresh:
                self.since = time.monotonic()
                self._say(progress.activity.doing)

    def _run(self) -> None:
        while not self.stop.wait(min(1.0, LINE_INTERVAL / 2)):
            with self.lock:
                now = time.monotonic()
                if self.now is not NO_LINE and now - self.said >= LINE_INTERVAL:
                    wanted, more = pieces(self.now, now - self.since, self.verbose)
                    self._say(", ".join([*wanted, *more]))

    def _say(self, line: str) -> None:
        self.said = time.monotonic()
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(line, file=sys.stderr, flush=True)


class Live:
    """A line at the bottom of a terminal that is drawn several times a second.

    Finished activities stay above it, and so does what the program prints: standard output and
    standard error are replaced until ``__exit__``.
    """

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        self.verbose = verbose
        # A copy of the descriptor: while Ray starts, standard error is redirected.
        self.out = os.dup(stream.fileno())
        self.encoding = stream.encoding or "ascii"
        self.marks = UNICODE if _can_show(self.encoding, UNICODE) else ASCII
        self.colors = "NO_COLOR" not in os.environ
        self.now, self.since, self.frame, self.foreign = NO_LINE, 0.0, 0, ""
        self.stop = threading.Event()
        self.lock = threading.RLock()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.replaced: list[tuple[str, Any, _Above]] = []

    def __enter__(self) -> "Live":
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream.isatty():
                above = _Above(self, stream)
                self.replaced.append((name, stream, above))
                setattr(sys, name, above)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(timeout=10)
        with self.lock:
            self._leave()
            self._write(ERASE)
            for name, stream, above in self.replaced:
                above.finish()
                setattr(sys, name, stream)
        os.close(self.out)

    def tell(self, progress: Progress) -> None:
        """Keep the progress, and draw the line at once if a new activity begins."""
        with self.lock:
            fresh = progress.activity != self.now.activity
            if fresh:
                self._leave()
                self.since, self.foreign = time.monotonic(), ""
            self.now = progress
            if fresh:
                self._draw()

    def above(self, text: str) -> None:
        """Write whole lines above the live line."""
        with self.lock:
            self._write(ERASE + text)
            self._draw()

    def _run(self) -> None:
        while not self.stop.wait(FRAME):
            with self.lock:
                self.frame += 1
                self._draw()

    def _draw(self) -> None:
        if self.now is NO_LINE or self.stop.is_set():
            return
        width = self._columns() - 1  # in the last column some terminals begin a new line
        spinner = self.marks.spinner[self.frame % len(self.marks.spinner)]
        seconds = time.monotonic() - self.since
        if self.foreign:  # another program's bar
            text = f"{spinner} {self.foreign}"[:width]
        else:
            text = live_line(self.now, seconds, width, self.marks, spinner, verbose=self.verbose)
        self._write(ERASE + self._colored(text))

    def _leave(self) -> None:
        """Leave a line about an activity that took long, unless an error ended it."""
        seconds = time.monotonic() - self.since
        broken = sys.exc_info()[0] is not None  # an error is passing through
        if self.now is NO_LINE or seconds < WORTH_A_LINE or broken:
            return
        text = f"{self.marks.tick} {outcome(self.now)} in {duration(seconds)}"
        self._write(ERASE + self._colored(text[: self._columns() - 1]) + "\n")

    def _colored(self, text: str) -> str:
        if not self.colors:
            return text
        text = re.sub(f"^{re.escape(self.marks.tick)}", "\x1b[32m\\g<0>\x1b[0m", text)
        return re.sub(f"^[{re.escape(self.marks.spinner)}](?= )|{self.marks.full}+",
                      "\x1b[36m\\g<0>\x1b[0m", text)  # fmt: skip

    def _columns(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self.out).columns or DEFAULT_COLUMNS
        return DEFAULT_COLUMNS

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(self.out, text.encode(self.encoding, "replace"))


class _Above(io.TextIOBase):
    """Replaces standard output or standard error, and writes whole lines above the live line.

    An unfinished line that begins with a carriage return is another program's bar. The live line
    shows it.
    """

    def __init__(self, live: Live, stream: TextIO) -> None:
        self.live, self.stream, self.rest = live, stream, ""

    def write(self, text: str) -> int:
        """Write whole lines above the live line, and keep the rest."""
        with self.live.lock:
            *lines, self.rest = (self.rest + text).split("\n")
            for line in lines:
                self.live.above(line.rpartition("\r")[2].rstrip() + "\n")
            _, bar, foreign = self.rest.rpartition("\r")
            self.live.foreign = foreign.strip() if bar else ""
        return len(text)

    def finish(self) -> None:
        """Pass an unfinished line on to the stream."""
        self.stream.write(self.rest.rpartition("\r")[2])
        self.stream.flush()

    def isatty(self) -> bool:
        """Tell that this is a terminal."""
        return True

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _can_show(encoding: str, marks: Marks) -> bool:
    try:
        "".join(vars(marks).values()).encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
