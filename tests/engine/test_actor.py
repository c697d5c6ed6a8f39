"""The actor's batches and cache, without Ray around them."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.engine.actor import StyleWorker
from pipeline.engine.announcing import Announcer
from pipeline.engine.board_actor import Vitals
from pipeline.engine.runtime.hanging import Watchdog
from pipeline.engine.stages import blocks
from pipeline.style.network.weights import load_network, load_weights
from pipeline.style.recipe import TargetCache
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import Fit
from pipeline.style.serving.lanes import Lane
from pipeline.style.serving.phases import most_work
from tests.conftest import picture, wait_until
from tests.style.serving.test_batching import Room


def pixels(seed, height=64, width=64):
    image = (picture(seed, height, width) * 255).round().byte().permute(1, 2, 0)
    return blocks.image_value(image.numpy())


def loaded(context, rows) -> pa.Table:
    plain = {
        "manifest_row": 0, "content_uri": "c", "style_uri": ["s"], "style_blend": [1.0],
        "overrides": "{}", "load_seconds": 0.1,
    }  # fmt: skip
    return pa.Table.from_pylist(
        [
            {
                **plain,
                "pair_id": str(index),
                "__content_image": pixels(index),
                "__style_images": [pixels(100 + index % 2)],
                "__style_keys": [str(index % 2)],
                **row,
            }
            for index, row in enumerate(rows)
        ],
        schema=context.schema(*blocks.LOADED),
    )


class NoBoard:
    """A board that has counted the given crashes."""

    def __init__(self):
        self.crashes: dict[str, int] = {}
        self.begun: list[str] = []
        self.messages: list[tuple[str, int]] = []  # of pairs that begin: the thread, how many
        self.under_way: set[str] = set()
        self.finished: dict[str, bool] = {}
        self.ends: list[int] = []  # of pairs that end, by message
        self.vitals = None

    def count_crashes(self, pairs):
        return {pair: self.crashes[pair] for pair in pairs if pair in self.crashes}

    def begin(self, pairs):
        time.sleep(0.01)  # as a message takes, and longer
        self.messages.append((threading.current_thread().name, len(pairs)))
        self.begun.extend(pairs)
        self.under_way |= set(pairs)

    def end(self, pairs):
        self.under_way -= set(pairs)

    def finish(self, pairs):
        self.end(pairs)
        self.finished |= pairs
        self.ends.append(len(pairs))

    def report(self, vitals):
        self.vitals = vitals

    def watchdog(self):
        self.dog = Watchdog(0, print)
        return self.dog


@pytest.fixture
def worker(context, quick, monkeypatch):
    state, _ = load_weights(quick)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    monkeypatch.setattr("ray.get", lambda reference: reference)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=str))
    return StyleWorker(
        context, NoBoard(), [arrays], batch_size=4, style_cache=8, threads=1, low_memory=False
    )


def run(worker, *tables):
    """The blocks' outcomes; all of them are in the actor at once."""

    async def together():
        return await asyncio.gather(*map(worker, tables))

    return [table.to_pylist() for table in asyncio.run(together())]


def limit_slots(monkeypatch, most, error):
    """The real lanes, out of memory (or worse) with more than ``most`` pairs in them."""
    real, seen = Lane._advance, []

    def advance(self):
        if len(self.traces) > most:
            raise error
        seen.append((self.slots, len(self.traces)))
        real(self)

    monkeypatch.setattr(Lane, "_advance", advance)
    return seen


def test_a_lane_out_of_memory_is_made_smaller_and_the_size_remembered(worker, context, monkeypatch):
    seen = limit_slots(monkeypatch, 2, torch.OutOfMemoryError("no memory"))
    (rows,) = run(worker, loaded(context, [{}] * 8))
    assert {slots for slots, _ in seen} == {2}
    assert worker.batcher.pool.fits == {((64, 64), False): Fit(2, others=0)}
    assert all(row["fault_class"] is None for row in rows)
    assert [row["pair_id"] for row in rows] == [str(index) for index in range(8)]
    assert rows[0]["batch_size"] == 2


def test_one_pair_that_does_not_fit_is_an_error_record(worker, context, monkeypatch):
    limit_slots(monkeypatch, 0, torch.OutOfMemoryError("no memory"))
    (rows,) = run(worker, loaded(context, [{}] * 3))
    assert {row["fault_class"] for row in rows} == {"out_of_memory"}
    assert "64 x 64 px: does not fit" in rows[0]["fault_message"]


def test_a_fault_that_nobody_thought_of_is_its_pairs_own(worker, context, monkeypatch):
    real = Lane._advance

    def advance(self):
        if (self.most == 13).any():
            raise RuntimeError("an operation failed")
        real(self)

    monkeypatch.setattr(Lane, "_advance", advance)
    culprit = {"overrides": '{"iterations": 13}'}
    (rows,) = run(worker, loaded(context, [{"warnings": ["w"]}, culprit, {}, {}]))
    assert [row["warnings"] for row in rows] == [["w"], None, None, None]
    assert [row["fault_class"] for row in rows] == [None, "unexpected", None, None]
    assert worker.batcher.pool.fits == {}, "the fault was not the size's"


def test_each_tick_is_watched_and_waiting_for_pairs_is_not(worker, context, monkeypatch):
    advance, seen = Lane._advance, []

    def watched(lane):
        seen.append(worker.board.dog.work)
        advance(lane)

    monkeypatch.setattr(Lane, "_advance", watched)
    run(worker, loaded(context, [{}]))
    assert seen == [["an evaluation on cpu x 1"]] * len(seen)
    assert len({id(work) for work in seen}) == len(seen) > 1, "each has all of the time"
    wait_until(lambda: not worker.board.dog.work, 10)


def test_pairs_under_way_when_a_process_died_come_alone(worker, context, monkeypatch):
    seen = limit_slots(monkeypatch, 4, AssertionError("never"))
    worker.board.crashes = {"1": 1, "4": 2, "5": 3}
    (rows,) = run(worker, loaded(context, [{}] * 8))
    faults = {row["pair_id"]: row["fault_class"] for row in rows}
    assert faults == {str(i): "process_died" if i == 5 else None for i in range(8)}
    assert sum(slots == 1 for slots, _ in seen) == 2 * 8  # evaluations of both, each by itself
    assert "5" not in worker.board.begun


def test_the_board_knows_of_a_pair_that_begins_by_few_messages_off_the_ticking_thread(
    worker, context, monkeypatch
):
    board, enter, known = worker.board, Batcher._enter, []

    def begun(self, key, pair):
        entered = enter(self, key, pair)
        known.append(pair.key.pair_id in board.under_way)
        return entered

    monkeypatch.setattr(Batcher, "_enter", begun)
    (rows,) = run(worker, loaded(context, [{}] * 12))
    assert all(row["fault_class"] is None for row in rows)
    assert known == [True] * len(known)
    assert len(known) >= 12
    assert {thread for thread, _ in board.messages} == {"announcing_0"}
    assert len(board.messages) <= 6
    assert max(pairs for _, pairs in board.messages) <= 4, "all of them are suspected if it dies"
    wait_until(lambda: not board.under_way, 10)
    assert sum(board.ends) == 12
    assert len(board.ends) <= 6


def test_where_one_that_comes_alone_ends_the_process_no_other_is_suspected(
    worker, context, monkeypatch
):
    """Neither those that were foreseen before it came, nor those that wait for its end."""
    board, advance, beside = worker.board, Lane._advance, []

    def watched(lane):
        if lane.slots == 1:
            beside.append(set(board.under_way))
        advance(lane)

    monkeypatch.setattr(Lane, "_advance", watched)
    board.crashes = {"9": 1, "10": 1}
    run(worker, loaded(context, [{}] * 12))
    assert {frozenset(pairs) for pairs in beside} == {frozenset({"9"}), frozenset({"10"})}


def test_what_was_announced_is_taken_back_where_one_comes_alone():
    announcer = Announcer(NoBoard())
    announcer.announce(["a", "b", "c"])
    assert announcer.known(wait=False) == set()
    assert announcer.known(wait=True) == {"a", "b", "c"}
    announcer.finish({"a": True})
    announcer.announce(["suspect"], alone=True)
    assert announcer.known(wait=True) == {"suspect"}
    assert announcer.board.under_way == {"suspect"}
    announcer.announce(["b"])
    assert announcer.known(wait=True) == {"suspect", "b"}
    assert announcer.board.under_way == {"suspect", "b"}


def test_a_pair_that_comes_alone_has_the_memory_of_idle_lanes(worker, context, monkeypatch):
    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", Room(4).lane)
    run(worker, loaded(context, [{}]))
    worker.board.crashes = {"0": 1}
    ((row,),) = run(worker, loaded(context, [{"__content_image": pixels(0, 64, 80)}]))
    assert row["fault_class"] is None
    assert row["batch_size"] == 1


def test_pairs_of_all_blocks_in_the_actor_share_its_slots(worker, context, monkeypatch):
    seen = limit_slots(monkeypatch, 4, AssertionError("never"))
    halves = loaded(context, [{}] * 2), loaded(context, [{}] * 2)
    assert [len(rows) for rows in run(worker, *halves)] == [2, 2]
    assert max(filled for _, filled in seen) == 4


def plain(level, height=64, width=64):
    return blocks.image_value(np.full((height, width, 3), level, np.uint8))


def test_images_of_one_colour_are_done_and_an_infinite_loss_is_its_rows_own(
    worker, context, monkeypatch
):
    monkeypatch.setattr(
        "pipeline.settings.validation._BOUNDS", lambda _: (None,) * 4
    )  # else it is refused
    rows = [
        {},
        {"__content_image": plain(0)},
        {"__style_images": [plain(0)], "__style_keys": ["black"]},
        {"overrides": '{"style_weight": 1e39}'},
        {"__content_image": plain(200), "__style_images": [plain(90)], "__style_keys": ["grey"]},
        {"__content_image": plain(0), "__style_images": [plain(0)], "__style_keys": ["black"]},
    ]
    (done,) = run(worker, loaded(context, rows))
    assert [row["fault_class"] for row in done] == [None] * 3 + ["non_finite_loss"] + [None] * 2
    ((alone,),) = run(worker, loaded(context, rows[:1]))
    with_others, by_itself = (
        blocks.pixels_of(row["__stylized_image"]).astype(int) for row in (done[0], alone)
    )
    assert np.abs(with_others - by_itself).mean() < 1.0
    losses = [row["total_loss"] for row in done if row["fault_class"] is None]
    assert np.isfinite(losses).all()


def test_rows_that_failed_to_load_pass_through(worker, context):
    bad = {
        "fault_class": "not_found",
        "fault_message": "x: does not exist",
        "__content_image": None,
    }
    ((first, second),) = run(worker, loaded(context, [bad, {}]))
    wait_until(lambda: worker.board.finished == {"1": True}, 10)
    assert (first["fault_class"], first["__stylized_image"]) == ("not_found", None)
    assert second["__stylized_image"]["width"] == 64


def test_style_targets_are_computed_once_and_the_oldest_leaves(quick, worker, context):
    run(worker, loaded(context, [{}] * 8))
    assert (worker.cache.hits, worker.cache.misses) == (6, 2)
    board = worker.board
    wait_until(lambda: board.vitals is not None and board.vitals.finished == 8, 10)
    most = 8 * most_work((64, 64), quick)
    told = board.vitals
    assert told == Vitals(
        cache_hits=6, cache_lookups=8, gpu_percent=None, received=8, finished=8,
        most_work=pytest.approx(most), work=told.work, finished_work=pytest.approx(told.work),
    )  # fmt: skip
    assert 0 < told.work <= most + 1e-9
    assert board.finished == {str(index): True for index in range(8)}
    cache = TargetCache(load_network(quick), quick, capacity=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, picture(1, 32, 32), (64, 64))
    assert (cache.hits, cache.misses) == (2, 4)
    cache.get("b", picture(1, 32, 32), (32, 64))  # another size is another target
    assert cache.misses == 5
