"""The board, as the real Ray actor that it is."""

import pytest
import ray

from pipeline.engine.board import STARTS, Board, Counts, Vitals

pytestmark = pytest.mark.usefixtures("local_ray")


def test_the_board_adds_up_what_style_actors_say_of_themselves():
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


def test_a_style_actor_that_never_starts_is_given_up_where_it_is_in_the_way():
    board = Board.create()
    here = ray.get_runtime_context().get_node_id()

    def starts(actor, node=here):
        return ray.get(board.actor.start_actor.remote(actor, node))

    assert [starts("on spot nodes", "a lost node") for _ in range(2 * STARTS)] == [0] * 2 * STARTS
    assert [starts("a") for _ in range(STARTS + 1)] == [0] * STARTS + [STARTS]
    assert starts("in its place") == STARTS
    ray.get(board.actor.add_actor.remote("b"))
    assert starts("a") == 0, "another one is at work"
    assert [starts("b") for _ in range(STARTS + 1)] == [0] * STARTS + [STARTS]
    ray.get(board.actor.add_actor.remote("b"))
    assert starts("b") == 0
    assert board.counts().actors == 2
