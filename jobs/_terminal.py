"""What a command shows while it works: one live line on a terminal, else a line now and then.

Only the standard library is loaded here: the first line must be there before PyTorch and Ray are.
"""

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from pipeline.data.words import duration
from pipeline.engine.progress import STARTING_ACTORS, STYLIZING, Activity, OnProgress, Progress

LINE_INTERVAL = 60.0
"""Seconds between two lines where there is no terminal."""

FRAME = 0.2
"""Seconds between two pictures of the live line."""

WORTH_A_LINE = 1.0
"""Seconds of an activity that stays on the terminal once it is over."""

DEFAULT_COLUMNS = 80
"""Columns of a terminal that does not tell its width."""

BAR = (10, 30)
"""Fewest and most columns of the bar."""

ERASE = "\r\x1b[K"
"""Clears the line that the cursor is in."""


@dataclass(frozen=True)
class Marks:
    """The characters of the live line that a terminal may lack."""

    spinner: str
    full: str
    empty: str
    between: str
    tick: str


UNICODE = Marks("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "━", "─", " · ", "✓")
ASCII = Marks("|/-\\", "#", "-", ", ", "*")

NO_LINE = Progress(activity=Activity("", ""))
"""Stands for a job that has said nothing yet."""


@contextlib.contextmanager
def shown(*, quiet: bool = False, verbose: bool = False) -> Iterator[OnProgress]:
    """Show on standard error what the function that this yields is told.

    A terminal has a live line. It is gone when the block ends, however that happens. What the
    program prints in the meantime stands above it.

    Args:
        quiet: show nothing.
        verbose: show what only those who know the program can use.
    """
    if quiet:
        yield lambda _: None
        return
    live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    screen: Lines | Live = Live(sys.stderr, verbose) if live else Lines(verbose)
    with screen:
        yield screen.tell


class Lines:
    """A line for each activity, and one a minute, on whatever standard error is by then."""

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
        """Write a line where the activity is another one."""
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

    Activities that are over stay above it, and so does what is printed while it stands: standard
    output and standard error are replaced until ``__exit__``.
    """

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        self.verbose = verbose
        # A descriptor of its own: while Ray starts, the process's standard error goes elsewhere.
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
        """Draw the line at once where the activity is another one."""
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
        """Have an activity that took its time stay on the terminal, unless an error ended it."""
        seconds = time.monotonic() - self.since
        broken = sys.exc_info()[0] is not None  # an error is on its way through this call
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
    """Stands for standard output or standard error: whole lines go above the live line.

    A line without an end that begins with a carriage return is another program's bar; the live
    line shows it.
    """

    def __init__(self, live: Live, stream: TextIO) -> None:
        self.live, self.stream, self.rest = live, stream, ""

    def write(self, text: str) -> int:
        with self.live.lock:
            *lines, self.rest = (self.rest + text).split("\n")
            for line in lines:
                self.live.above(line.rpartition("\r")[2].rstrip() + "\n")
            _, bar, foreign = self.rest.rpartition("\r")
            self.live.foreign = foreign.strip() if bar else ""
        return len(text)

    def finish(self) -> None:
        """Hand on what has no end yet."""
        self.stream.write(self.rest.rpartition("\r")[2])
        self.stream.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def live_line(
    progress: Progress, seconds: float, width: int, marks: Marks, spinner: str, *, verbose: bool
) -> str:
    """Return the live line: all that fits into ``width`` columns, the least important left out.

    Args:
        progress: what is to be shown.
        seconds: for which the activity has lasted.
        width: most columns.
        marks: the characters to use.
        spinner: the first character.
        verbose: also say what only those who know the program can use.
    """
    (first, *wanted), more = pieces(progress, seconds, verbose)
    text = first
    for some, room in ((wanted, width), (more, width - BAR[0] - 2)):
        for piece in some:
            longer = marks.between.join((text, piece))
            text = longer if len(longer) + 2 <= room else text
    room = min(BAR[1], width - len(text) - 4)
    if progress.activity == STYLIZING and room >= BAR[0]:
        full = int(room * (progress.share or 0.0))
        return f"{spinner} {marks.full * full}{marks.empty * (room - full)}  {text}"
    return f"{spinner} {text}"[:width]


def pieces(progress: Progress, seconds: float, verbose: bool) -> tuple[list[str], list[str]]:
    """Return what there is to say of a job whose activity has lasted for so long, in order.

    The second list is what the bar is worth more than.
    """
    if progress.activity != STYLIZING:
        of = f" ({progress.actors} of {progress.most_actors})"
        ready = of if progress.activity == STARTING_ACTORS and progress.most_actors else ""
        return [f"{progress.activity.doing}{ready}", duration(seconds)], []
    found = [f"{progress.done}/{progress.total} pairs"]
    if progress.failed:
        found.append(f"{progress.failed} failed")
    if progress.total and progress.done == progress.total:
        found.append("saving the last")
    elif progress.seconds_left is not None:
        found.append(f"{_about(progress.seconds_left)} left")
    else:
        found.append(duration(seconds))
    if progress.rate is not None:
        found.append(f"{_figure(progress.rate)} a minute")
    more = []
    if progress.actors < progress.most_actors:
        more.append(f"{progress.actors} of {progress.most_actors} actors")
    if progress.gpu_percent is not None:
        more.append(f"GPU {progress.gpu_percent:.0f}%")
    if verbose and progress.cache_hits is not None:
        more.append(f"style cache {progress.cache_hits:.0%}")
    return found, more


def outcome(progress: Progress) -> str:
    """Return what an activity has led to, in words."""
    if progress.activity != STYLIZING:
        return progress.activity.done
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.total} pairs{failed}"


def _about(seconds: float) -> str:
    """Return a time that is only known roughly, in words."""
    if seconds < 100:
        return duration(max(1, seconds))
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 20 else f"{number:.2g}"


def _can_show(encoding: str, marks: Marks) -> bool:
    try:
        "".join(vars(marks).values()).encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
