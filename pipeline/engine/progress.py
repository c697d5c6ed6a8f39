"""How far a job is, shown as a bar or as lines."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from pipeline.engine.board import Board
from pipeline.engine.board_actor import Counts
from pipeline.engine.runtime import watcher

LINE_INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""

POLL_INTERVAL = 0.5
"""Seconds between two looks at the counts."""

WIDE = 100
"""Columns of a terminal that has room for a bar and all that there is to say."""


@contextlib.contextmanager
def progress(board: Board, total: int, stream: TextIO = sys.stderr) -> Iterator[None]:
    """Show what ``board`` says on the way to ``total`` pairs while the block runs.

    On a terminal a live bar; elsewhere a line every 30 seconds.
    """
    stop = threading.Event()
    show = _show_bar if stream.isatty() else _show_lines
    threads = [
        threading.Thread(target=show, args=(board, total, stream, stop), daemon=True),
        threading.Thread(target=_watch, args=(board, stream, stop), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=10)


def _watch(board: Board, stream: TextIO, stop: threading.Event) -> None:
    """Say what hung, and end a job in which nothing happens though it waits for no node."""
    said, counts, idle = 0, Counts(), 0.0
    while board.patience and not stop.wait(min(LINE_INTERVAL, board.patience / 4)):
        counts = _counts(board, counts)
        for what in counts.hung[said:]:
            tqdm.write(
                f"note: {what} made no progress for {board.patience:g} s; its process was ended, "
                "and what was under way there is begun again",
                file=stream,
            )
        said = len(counts.hung)
        with contextlib.suppress(Exception):  # as in _counts
            idle = board.idle_seconds()
        # What hangs in a process that is watched ends before.
        if idle > 2 * board.patience and not stop.is_set():
            watcher.give_up(
                f"nothing has happened for {idle:.0f} s though a style actor is ready: storage "
                "that does not answer, most likely"
            )


def _show_bar(board: Board, total: int, stream: TextIO, stop: threading.Event) -> None:
    shape = (
        "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    )
    started = time.monotonic()
    counts = Counts()
    with tqdm(total=total, desc="pairs", file=stream, bar_format=shape) as bar:
        while True:
            last = stop.wait(POLL_INTERVAL)
            counts = _counts(board, counts)
            bar.n = min(counts.ok + counts.failed, total)
            room = shutil.get_terminal_size().columns >= WIDE
            bar.set_postfix_str(_state(counts, time.monotonic() - started, all_of_it=room))
            if last:
                return


def _show_lines(board: Board, total: int, stream: TextIO, stop: threading.Event) -> None:
    started = time.monotonic()
    counts = Counts()
    while not stop.wait(LINE_INTERVAL):
        counts = _counts(board, counts)
        done = min(counts.ok + counts.failed, total)
        seconds = time.monotonic() - started
        left = f", about {_duration(seconds * (total - done) / done)} left" if done else ""
        stream.write(f"{done}/{total} pairs, {_state(counts, seconds)}{left}\n")
        stream.flush()


def _state(counts: Counts, seconds: float, *, all_of_it: bool = True) -> str:
    """What there is to say of a job that has run for so long, and no more."""
    if not counts.actors:
        return "waiting for the first style actor"
    rate = 60 * (counts.ok + counts.failed) / max(seconds, 1e-9)
    parts = [f"{counts.failed} failed", f"{rate:.1f} pairs/min"]
    if counts.cache_lookups and all_of_it:
        parts.append(f"style cache {counts.cache_hits / counts.cache_lookups:.0%}")
    if counts.gpu_percent is not None:
        parts.append(f"GPU {counts.gpu_percent:.0f}%")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _counts(board: Board, before: Counts) -> Counts:
    try:
        return board.counts()
    except Exception:  # Ray may be going down, and a bar is no reason to fail
        return before
