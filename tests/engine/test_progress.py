import io
import threading
import time

import pytest

from pipeline.engine import progress


class Board:
    """Stands for the counting actor; the display is what is tested."""

    def __init__(self, *counts):
        self.left = list(counts)

    def next(self):
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def shown(monkeypatch, show, counts, seconds=0.5) -> str:
    monkeypatch.setattr(progress, "_counts", lambda board: board.next())
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.05)
    monkeypatch.setattr(progress, "POLL_INTERVAL", 0.05)
    stream, stop = io.StringIO(), threading.Event()
    thread = threading.Thread(target=show, args=(Board(*counts), 10, stream, stop))
    thread.start()
    time.sleep(seconds)
    stop.set()
    thread.join()
    return stream.getvalue()


def test_lines_say_done_failed_rate_and_time_left(monkeypatch):
    text = shown(monkeypatch, progress._show_lines, [(0, 0, 0), (0, 0, 1), (4, 1, 1)])
    waiting, first, *_, last = text.splitlines()
    assert waiting == "0/10 pairs, waiting for the first style actor"
    assert first.startswith("0/10 pairs, 0 failed, 0.0 pairs/min")
    assert "left" not in first
    assert last.startswith("5/10 pairs, 1 failed, ")
    assert last.endswith(" s left")


def test_the_bar_ends_at_the_last_counts(monkeypatch):
    text = shown(monkeypatch, progress._show_bar, [(0, 0, 1), (9, 1, 1)])
    assert "100%" in text
    assert "10/10" in text
    assert "1 failed" in text


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (600, "10 min"), (7300, "2.0 h")])
def test_durations(seconds, text):
    assert progress._duration(seconds) == text
