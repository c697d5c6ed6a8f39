import io
import threading
import time

import pytest

from pipeline.engine import progress
from pipeline.engine.board_actor import Counts

BEGUN = Counts(actors=1)


class Board:
    """Stands for the counting actor; the display is what is tested. An error is raised."""

    def __init__(self, *counts):
        self.left = list(counts)

    def counts(self):
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(found, Exception):
            raise found
        return found


def shown(monkeypatch, show, counts, seconds=0.5) -> str:
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
    some = Counts(ok=4, failed=1, actors=1)
    text = shown(monkeypatch, progress._show_lines, [Counts(), BEGUN, some])
    waiting, first, *_, last = text.splitlines()
    assert waiting == "0/10 pairs, waiting for the first style actor"
    assert first == "0/10 pairs, 0 failed, 0.0 pairs/min", "nothing is known of caches and GPUs"
    assert last.startswith("5/10 pairs, 1 failed, ")
    assert last.endswith(" s left")


def test_the_bar_ends_at_the_last_counts(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    done = Counts(ok=9, failed=1, actors=1, cache_hits=19, cache_lookups=20, gpu_percent=86.6)
    gone = ConnectionError("Ray is going down")
    text = shown(monkeypatch, progress._show_bar, [BEGUN, done, gone])
    last = text.split("\r")[-1]
    assert "100%" in last
    assert "10/10" in last
    assert "1 failed" in last
    assert last.rstrip().endswith(" pairs/min, style cache 95%, GPU 87%]")


def test_in_a_narrow_terminal_the_bar_has_room(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    some = Counts(ok=1, actors=1, cache_hits=19, cache_lookups=20)
    text = shown(monkeypatch, progress._show_bar, [some])
    assert text.split("\r")[-1].rstrip().endswith(" pairs/min]")


def test_what_is_known_in_part_is_shown_in_part(monkeypatch):
    known = Counts(actors=1, cache_lookups=3)
    text = shown(monkeypatch, progress._show_lines, [known])
    assert text.splitlines()[0] == "0/10 pairs, 0 failed, 0.0 pairs/min, style cache 0%"


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (600, "10 min"), (7300, "2.0 h")])
def test_durations(seconds, text):
    assert progress._duration(seconds) == text
