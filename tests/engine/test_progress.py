"""How far a job is, and the time left by the evaluations that were done."""

import threading
import time

import pytest

from pipeline.engine import following, progress
from pipeline.engine.board_actor import Counts
from pipeline.engine.following import GpuClock, followed
from pipeline.engine.forecast import Forecast, expected_share
from pipeline.settings import StyleSettings, replace


class Board:
    """Stands for the counting actor. An error among the counts is raised; the last one stays."""

    patience = 0.0

    def __init__(self, *counts):
        self.left = list(counts)

    def counts(self):
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(found, Exception):
            raise found
        return found


def worked(work, done=0, **more) -> Counts:
    """Counts of two begun pairs that take 10 at most, and of ``done`` that took 10 each."""
    known = {"actors": 1, "received": done + 2, "most_work": 10.0 * (done + 2)}
    finished = {"ok": done, "finished": done, "finished_work": 10.0 * done}
    return Counts(work=work, **{**known, **finished, **more})


def last_of(forecast, *seen):
    """What is known after all that was seen: pairs of a time and the counts of then."""
    return [forecast.add(progress.STYLIZING, counts, now) for now, counts in seen][-1]


def test_the_time_left_is_known_before_a_pair_is_finished():
    forecast = Forecast(10, 1.0)
    # 100 in all, 1 a second; the minutes before the first evaluation say nothing.
    known = last_of(forecast, (300.0, Counts()), (600.0, worked(1.0)), (605.0, worked(6.0)))
    assert known.done == 0
    assert known.rate == pytest.approx(6.0)
    assert known.seconds_left == pytest.approx(94.0)
    assert known.share == pytest.approx(0.06)
    # No news for two seconds: the clock goes on.
    assert last_of(forecast, (607.0, worked(6.0))).seconds_left == pytest.approx(92.0)


def test_nothing_is_said_of_what_is_not_known():
    forecast = Forecast(10, 1.0)
    first = last_of(forecast, (0.0, Counts(actors=1)))
    assert (first.share, first.rate, first.seconds_left) == (None, None, None)
    soon = last_of(forecast, (1.0, worked(1.0)), (1.5, worked(1.5)))
    assert soon.share == pytest.approx(0.015)
    assert (soon.rate, soon.seconds_left) == (None, None)
    failed = last_of(Forecast(10, 1.0), (0.0, Counts(actors=1, failed=5)))
    assert (failed.done, failed.failed, failed.share) == (5, 5, 0.5), "none could be loaded"


def test_finished_pairs_teach_what_a_pair_takes():
    """Pairs converge after half of the evaluations that they may take."""
    forecast = Forecast(1000, 1.0)
    halves = worked(500.0, 100, finished_work=500.0)
    known = last_of(forecast, (0.0, worked(10.0)), (49.0, halves))
    assert known.seconds_left == pytest.approx(450, rel=0.03)
    assert known.rate == pytest.approx(120, rel=0.03)
    expected = Forecast(1000, 0.5)
    begun = worked(500.0, received=110, most_work=1100.0)
    known = last_of(expected, (0.0, worked(10.0)), (49.0, begun))
    assert known.seconds_left == pytest.approx(450), "so it is said before one is finished"


def test_the_bar_never_goes_back_and_ends_when_all_pairs_are_done():
    forecast = Forecast(4, 0.5)
    half = last_of(forecast, (0.0, worked(1.0)), (10.0, worked(10.0)))
    assert half.share == pytest.approx(9.5 / 20)
    slow = last_of(forecast, (20.0, worked(20.0, 2)))
    assert slow.share >= half.share
    end = last_of(forecast, (30.0, worked(40.0, 4)))
    assert (end.share, end.seconds_left, end.done) == (1.0, 0.0, 4)


def test_the_rate_follows_actors_that_come():
    forecast = Forecast(10_000, 1.0)
    for now in range(400):
        forecast.add(progress.STYLIZING, worked(1.0 + now), float(now))
    work = 400.0
    for now in range(400, 800):
        work += 10
        known = forecast.add(progress.STYLIZING, worked(work), float(now))
    assert known.rate == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"iterations": 540}, 0.25),
        ({"iterations": 100}, 1.0),
        ({"iterations": 540, "tolerance": 0.0}, 1.0),
    ],
)
def test_by_experience_the_tolerance_ends_a_pair(changes, share):
    style = replace(StyleSettings(tolerance=1e-3), **changes)
    assert expected_share(style) == share


def test_a_job_is_followed_from_its_start_to_its_last_counts(monkeypatch):
    monkeypatch.setattr(following, "POLL_INTERVAL", 0.05)
    told, before = [], set(threading.enumerate())
    gone = ConnectionError("Ray is going down")
    some, done = worked(5.0), Counts(ok=9, failed=1, actors=1, cache_hits=3, cache_lookups=4)
    board = Board(gone, Counts(), Counts(actors=1), some, done, gone)
    with followed(board, 10, told.append, actors=2, gpus=0.5) as clock:
        ends = time.monotonic() + 20
        while not (told and told[-1].done == 10):
            assert time.monotonic() < ends
            time.sleep(0.02)
    seen = list(dict.fromkeys(found.activity for found in told))
    assert seen == [progress.STARTING_ACTORS, progress.LOADING_PAIRS, progress.STYLIZING]
    assert (told[0].actors, told[0].most_actors, told[0].total) == (0, 2, 10)
    last = told[-1]
    assert (last.done, last.failed, last.actors, last.most_actors) == (10, 1, 1, 2)
    assert last.cache_hits == 0.75
    assert clock.hours == last.gpu_hours > 0
    assert not set(threading.enumerate()) - before


def test_gpu_hours_are_those_of_actors_that_are_ready():
    clock = GpuClock(0.5)
    clock.add(0, 3600.0)
    clock.add(4, 1800.0)
    assert clock.hours == 1.0
