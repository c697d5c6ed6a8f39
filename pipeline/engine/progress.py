"""How far a job is: counted by one small Ray actor, shown as a bar or as lines."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

import ray
from tqdm import tqdm

LINE_INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""

POLL_INTERVAL = 0.5
"""Seconds between two looks at the counts."""


@ray.remote(num_cpus=0, max_restarts=-1)
class _Board:
    def __init__(self) -> None:
        self.ok, self.failed = 0, 0

    def add(self, ok: int, failed: int) -> None:
        self.ok += ok
        self.failed += failed

    def counts(self) -> tuple[int, int]:
        return self.ok, self.failed


@dataclass(frozen=True)
class ProgressHandle:
    """Travels to the store tasks. Reports are for the eye; the records are what counts."""

    board: Any

    def add(self, ok: int, failed: int) -> None:
        """Report finished pairs, without waiting."""
        self.board.add.remote(ok, failed)


@contextlib.contextmanager
def progress(total: int, stream: TextIO = sys.stderr) -> Iterator[ProgressHandle]:
    """Show progress towards ``total`` pairs on ``stream`` while the block runs.

    On a terminal a live bar; elsewhere a line every 30 seconds.
    """
    board = _Board.remote()  # type: ignore[attr-defined]
    stop = threading.Event()
    show = _show_bar if stream.isatty() else _show_lines
    thread = threading.Thread(target=show, args=(board, total, stream, stop), daemon=True)
    thread.start()
    try:
        yield ProgressHandle(board)
    finally:
        stop.set()
        thread.join(timeout=10)


def _show_bar(board: Any, total: int, stream: TextIO, stop: threading.Event) -> None:
    shape = (
        "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
    )
    started = time.monotonic()
    with tqdm(total=total, desc="pairs", file=stream, bar_format=shape) as bar:
        while True:
            last = stop.wait(POLL_INTERVAL)
            ok, failed = _counts(board)
            bar.n = min(ok + failed, total)
            bar.set_postfix_str(_rate(ok, failed, time.monotonic() - started))
            if last:
                return


def _show_lines(board: Any, total: int, stream: TextIO, stop: threading.Event) -> None:
    started = time.monotonic()
    while not stop.wait(LINE_INTERVAL):
        ok, failed = _counts(board)
        done = min(ok + failed, total)
        seconds = time.monotonic() - started
        left = f", about {_duration(seconds * (total - done) / done)} left" if done else ""
        rate = _rate(ok, failed, seconds)
        print(f"{done}/{total} pairs, {rate}{left}", file=stream, flush=True)


def _rate(ok: int, failed: int, seconds: float) -> str:
    return f"{failed} failed, {60 * (ok + failed) / max(seconds, 1e-9):.1f} pairs/min"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _counts(board: Any) -> tuple[int, int]:
    try:
        counts: tuple[int, int] = ray.get(board.counts.remote(), timeout=5)
    except Exception:  # Ray may be going down, and a bar is no reason to fail
        return 0, 0
    return counts
