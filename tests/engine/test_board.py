"""The board, as the real Ray actor that it is."""

import pytest
import ray

from pipeline.engine.board import Board
from pipeline.engine.board_actor import Counts, Vitals

pytestmark = pytest.mark.usefixtures("local_ray")

STARTS = 5
"""Failed starts or idle crashes of a style actor in a row before the job stops."""


def test_the_board_adds_up_what_style_actors_report():
    board = Board.create()
    assert board.counts() == Counts()
    board.add(3, 1)
    board.report(Vitals(cache_hits=1, cache_lookups=2, gpu_percent=40.0))
    board.report(Vitals(cache_hits=2, cache_lookups=4, gpu_percent=50.0))  # the same actor
    other = Vitals(
        cache_hits=5, cache_lookups=6, gpu_percent=None
    )  # without a GPU of which it knows
    ray.get(board.actor.report.remote("another", other))
    known = {"cache_hits": 7, "cache_lookups": 10, "gpu_percent": 50.0}
    assert board.counts() == Counts(ok=3, failed=1, **known)
    third = Vitals(cache_hits=0, cache_lookups=0, gpu_percent=100.0)
    ray.get(board.actor.report.remote("a third", third))
    assert board.counts().gpu_percent == 75.0


def test_where_pair_after_pair_ends_its_processes_and_none_succeeds_the_job_ends():
    board = Board.create()
    here = ray.get_runtime_context().get_node_id()

    def given_up(name):
        for _ in range(3):
            ray.get(board.actor.begin.remote([name], here))
            board.count_crashes([name])

    for index in range(9):
        given_up(str(index))
    with pytest.raises(RuntimeError, match="pair after pair ended 3 processes and none succeeded"):
        given_up("9")
    board.add(1, 0)
    assert board.count_crashes(["9"]) == {"9": 3}, "something was done: they are at fault"


def test_a_pair_counts_once_it_is_finished_and_once_only():
    board = Board.create()

    def done():
        return board.counts().ok, board.counts().failed

    board.finish({"a": True, "b": False})
    assert done() == (1, 1)
    board.finish({"a": True})  # its actor died before it was stored
    assert done() == (1, 1)
    board.add(1, 1, ["a", "b"])
    assert done() == (1, 1)
    board.add(0, 1, ["c"])  # it could not be loaded, and no actor has had it
    assert done() == (1, 2)


def test_the_board_adds_up_the_work_of_all_style_actors():
    board = Board.create()
    some = Vitals(
        cache_hits=0, cache_lookups=0, gpu_percent=None, work=2.5, received=2, most_work=8.0,
        finished=1, finished_work=2.0,
    )  # fmt: skip
    for worker in ("one", "two"):
        ray.get(board.actor.report.remote(worker, some))
    assert board.counts() == Counts(
        work=5.0, received=4, most_work=16.0, finished=2, finished_work=4.0
    )


def test_a_style_actor_that_never_starts_is_given_up_where_it_is_in_the_way():
    board = Board.create()
    here = ray.get_runtime_context().get_node_id()

    def starts(actor, node=here):
        failed_starts, _ = ray.get(board.actor.start_actor.remote(actor, node))
        return failed_starts

    assert [starts("on spot nodes", "a lost node") for _ in range(2 * STARTS)] == [0] * 2 * STARTS
    assert [starts("a") for _ in range(STARTS + 1)] == [0] * STARTS + [STARTS]
    assert starts("in its place") == STARTS
    ray.get(board.actor.add_actor.remote("b", here))
    assert starts("a") == 0, "another one is at work"
    assert [starts("b") for _ in range(STARTS + 1)] == [0] * STARTS + [STARTS]
    ray.get(board.actor.add_actor.remote("b", here))
    assert starts("b") == 0
    assert board.counts().actors == 0, "it is not ready"
    ray.get([board.actor.add_actor.remote(actor, here) for actor in ("a", "b", "a")])
    assert board.counts().actors == 2
    ray.get(board.actor.add_actor.remote("c", "a lost node"))
    assert board.counts().actors == 2, "its GPU costs nothing any more"


def test_a_style_actor_that_crashes_again_and_again_for_no_pair_is_given_up():
    board = Board.create()
    here = ray.get_runtime_context().get_node_id()

    def lives(node=here):
        """Start it and have it ready. Return its idle crashes, if there are too many."""
        _, idle_crashes = ray.get(board.actor.start_actor.remote("a", node))
        ray.get(board.actor.add_actor.remote("a", node))
        return idle_crashes

    assert [lives("a lost node") for _ in range(STARTS + 2)] == [0] * (STARTS + 2)
    assert [lives() for _ in range(STARTS)] == [0] * STARTS
    board.add(1, 0)
    assert lives() == 0, "something was done"
    ray.get(board.actor.begin.remote(["pair"], here))
    assert lives() == 0
    assert board.count_crashes(["pair"]) == {"pair": 1}
    assert [lives() for _ in range(STARTS + 1)] == [0] * STARTS + [STARTS]
