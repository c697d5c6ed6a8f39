"""The actor's batches and cache, without Ray around them."""

import asyncio
import dataclasses
import threading
import time
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.data.errors import RowError
from pipeline.data.storage import files
from pipeline.engine.actor import StyleWorker
from pipeline.engine.announcing import Announcer
from pipeline.engine.board_actor import Vitals
from pipeline.engine.resources import IO_CPUS, choose_resources
from pipeline.engine.runtime.hanging import Watchdog
from pipeline.engine.runtime.nodes import check_cpu_actors
from pipeline.engine.stages import blocks, loading
from pipeline.engine.stages.context import Context
from pipeline.settings import JobSettings, SettingError, StyleSettings, replace
from pipeline.style.network.weights import load_network, load_weights
from pipeline.style.recipe import TargetCache
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import Fit
from pipeline.style.serving.lanes import Lane
from pipeline.style.serving.phases import most_work
from tests.conftest import image_bytes, picture, wait_until
from tests.outputs import record_of
from tests.style.serving.test_batching import Room


def pixels(seed, height=64, width=64):
    image = (picture(seed, height, width) * 255).round().byte().permute(1, 2, 0)
    return blocks.image_value(image.numpy())


@pytest.fixture
def context(quick):
    return Context(
        style=quick, output="out", storage_options={}, max_pixels=10**6, max_bytes=10**6,
        file_format="png", quality=90, embed_metadata=False, extra=pa.schema([]), weights_name="w",
        weights_digest="d", versions={},
    )  # fmt: skip


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


def test_a_result_that_its_format_cannot_hold_is_an_error_before_it_is_made(context, tmp_path):
    uris = {}
    for name, size in (("long", (16_384, 32)), ("small", (64, 64))):
        uris[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", size, "red").save(uris[name])
    style = replace(context.style, image_size=32, image_edge="short")
    row = {"style_uri": [uris["small"]], "overrides": "{}"}
    for file_format, fits in (("png", True), ("webp", False), ("jpg", True)):
        context = dataclasses.replace(context, style=style, file_format=file_format)
        loading.load_images({**row, "content_uri": uris["small"]}, context)
        if fits:
            loading.load_images({**row, "content_uri": uris["long"]}, context)
            continue
        with pytest.raises(RowError, match="16384 x 32 px, but an edge of a webp file"):
            loading.load_images({**row, "content_uri": uris["long"]}, context)


@pytest.fixture
def style(tmp_path):
    """Return a function that writes a style image, and one that reads it as a load process does."""
    path = tmp_path / "s.png"
    loading._style_memo.clear()

    def write(seed):
        path.write_bytes(image_bytes(seed, 64, 64))

    def read(context, size=64.0):
        return loading._read_style(str(path), size, "long", context)

    write(0)
    return write, read


@pytest.mark.parametrize("versions", ["known", "unknown"])
def test_a_style_that_was_replaced_is_read_again(context, style, monkeypatch, versions):
    """By a process that has served an earlier run, or the same one where the storage tells."""
    write, read = style
    if versions == "unknown":
        monkeypatch.setattr(files, "version", lambda *_: None)
    first = read(context)
    assert read(context)[0] is first[0]
    write(1)
    image, digest, _ = read(dataclasses.replace(context, job_id="another"))
    assert digest != first[1]
    assert image["pixels"] != first[0]["pixels"]
    assert (read(context)[0] is first[0]) == (versions == "unknown")


@pytest.mark.parametrize("limit", ["max_pixels", "max_bytes"])
def test_a_style_that_an_earlier_run_let_in_is_held_to_the_new_ones_limits(context, style, limit):
    _, read = style
    read(context)
    with pytest.raises(RowError, match=limit):
        read(dataclasses.replace(context, job_id="another", **{limit: 2000}))


def test_the_styles_that_a_load_process_keeps_are_bounded_in_bytes(context, style, monkeypatch):
    _, read = style
    each = 64 * 64 * 3
    for most, kept in ((3 * each, 3), (3 * each - 1, 2), (each - 1, 0)):
        monkeypatch.setattr(loading, "STYLE_BYTES", most)
        loading._style_memo.clear()
        for size in (64.0, 64.1, 64.2):  # they round to as many pixels
            assert read(context, size)[0]["pixels"].nbytes == each
        assert len(loading._style_memo) == kept


def test_what_is_wrong_with_pictures_that_are_read_reaches_the_record(context, tmp_path):
    """Also where a load process has the style already, and with no credential."""
    loading._style_memo.clear()
    for name, cut in (("cut.jpg", 2), ("whole.jpg", 0)):
        data = image_bytes(5, 64, 64, "JPEG")
        (tmp_path / name).write_bytes(data[: len(data) - cut])
    cut, whole = str(tmp_path / "cut.jpg"), str(tmp_path / "whole.jpg")
    row = {
        "pair_id": "p", "manifest_row": 0, "overrides": "{}", "style_blend": [1.0],
        "fault_class": None, "fault_message": None,
    }  # fmt: skip
    rows = [
        {**row, "content_uri": whole, "style_uri": [whole]},
        {**row, "content_uri": whole, "style_uri": [whole, cut]},
        {**row, "content_uri": f"file://{cut}", "style_uri": [cut]},
    ]
    wrong = "was read, but its end is missing or broken"
    of_style = f"style {cut}: {wrong}"
    expected = [None, [of_style], [f"content file://{cut}: {wrong}", of_style]]
    done = [{**row, **loading.load_images(row, context)} for row in rows]
    table = pa.Table.from_pylist(done, schema=context.schema(*blocks.LOADED))
    assert table["warnings"].to_pylist() == expected
    assert [len(notes) for *_, notes in loading._style_memo.values()] == [0, 1]
    found = [record_of(loaded, context)["warnings"] for loaded in table.to_pylist()]
    assert found == expected
    signed = loading._warning("style", "https://u:S3CRET@h/x.png?sig=S3CRET", ["a", "b"])
    assert signed == "style https://h/x.png: was read, but a; b"


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


def test_a_load_task_reserves_what_the_largest_image_takes():
    job = JobSettings(manifest="m", output="o")

    def reserved(nodes, **given):
        return choose(replace(job, **given), 256, nodes, rows=1000).load_memory / 1e9

    assert 1.9 < reserved([machine(8)]) < 2.1
    assert reserved([machine(8)], max_pixels=10**9) > 13
    assert 0.9 < reserved([machine(8)], max_pixels=10**6, max_bytes=2**29) < 1.0
    # Whatever is asked for, a node that is there has it; some have no CPU, and load nothing.
    assert reserved([machine(8), machine(2, gigabytes=1), machine(0, gigabytes=0.5)]) == 1
    assert reserved([{"CPU": 8}]) == 0


def machine(cpus, gpus=0, gigabytes=1000):
    return {"CPU": cpus, "GPU": gpus, "memory": gigabytes * 1e9}


def choose(job, size, nodes, rows, shapes=((None, 1),), **style):
    return choose_resources(job, StyleSettings(image_size=size, **style), shapes, nodes, rows)


@pytest.mark.parametrize("cpus", [[2], [3], [4], [8], [64], [2] * 16, [4] * 16, [2, 64]])
def test_cpu_actors_leave_room_for_what_runs_beside_them(cpus):
    job = JobSettings(manifest="m", output="o")
    chosen = choose(job, 256, [machine(count) for count in cpus], rows=1000)
    # A resumed job also needs the checkpoint filter's whole CPU and one to list the plan's files.
    assert chosen.actors * chosen.cpus_per_actor + 2 <= sum(cpus)
    assert chosen.cpus_per_actor <= max(cpus) / 2  # it fits on a node, and not alone
    assert chosen.threads <= max(cpus)
    assert chosen.cpus_per_actor != IO_CPUS  # else Ray Data would fuse loading into the actor
    assert chosen.gpus_per_actor == 0


def test_each_cpu_has_an_actor_of_one_thread_if_memory_and_rows_allow():
    job = JobSettings(manifest="m", output="o")

    def actors_and_threads(cpus, gigabytes, size, rows, shapes=((None, 1),), **style):
        chosen = choose(job, size, [machine(cpus, 0, gigabytes)] * 2, rows, shapes, **style)
        return chosen.actors, chosen.threads

    assert actors_and_threads(8, 100, 512, 1000) == (16, 1)
    assert actors_and_threads(8, 10, 512, 1000) == (8, 2)  # of some 2.1 GB each
    assert actors_and_threads(8, 10, 512, 1000, image_edge="short") == (6, 3)  # of 2.8 GB
    assert actors_and_threads(8, 10, 2048, 1000) == (1, 8)  # not even one: Ray may know too little
    assert actors_and_threads(8, 100, 512, 4) == (4, 4)
    large = ((None, 1), (2048, 1))  # some rows have an image_size of their own
    assert actors_and_threads(8, 24, 512, 1000, large) == (4, 4)


def test_gpu_actors_take_what_there_is_and_what_is_asked():
    job = JobSettings(manifest="m", output="o")
    chosen = choose(job, 256, [machine(8, 1)] * 4, rows=1000)
    assert (chosen.actors, chosen.gpus_per_actor, chosen.batch_size) == (4, 1.0, 32)
    assert chosen.cpus_per_actor == 0  # loading and storing never wait for the actors' CPUs
    half = JobSettings(manifest="m", output="o", gpus_per_actor=0.5, batch_size=3)
    chosen = choose(half, 256, [machine(16, 4)], rows=1000)
    assert (chosen.actors, chosen.batch_size) == (8, 3)
    # An actor's share is of one GPU.
    for share, nodes, actors in ((0.4, [2], 4), (0.6, [1] * 50, 50), (0.1, [1, 2], 30)):
        part = JobSettings(manifest="m", output="o", gpus_per_actor=share)
        assert choose(part, 256, [machine(8, gpus) for gpus in nodes], 10**5).actors == actors
    # A cluster that still has no GPU node: the actors ask for GPUs all the same.
    asked = JobSettings(manifest="m", output="o", gpus_per_actor=1.0, actors=8)
    chosen = choose(asked, 256, [machine(4)], rows=1000)
    assert (chosen.actors, chosen.gpus_per_actor) == (8, 1.0)


def test_a_gpu_optimises_more_small_pictures_together_and_as_many_when_a_job_is_resumed():
    job = JobSettings(manifest="m", output="o")

    def slots(size, rows=10**6, shapes=((None, 1),), **style):
        return choose(job, size, [machine(8, 1)], rows, shapes, **style).batch_size

    assert [slots(size) for size in (64, 224, 256, 384, 512, 2048)] == [64, 41, 32, 14, 8, 8]
    compact = {"weights": "compact"}
    assert [slots(size, **compact) for size in (224, 256, 512, 2048)] == [64, 64, 16, 8]
    assert slots(256, shapes=((None, 1), (512, 1))) == 8, "as the largest needs it"
    assert slots(256, rows=10) == 32, "rounding depends on it"
    # Blocks follow, and what Ray does for each is shared by more rows.
    chosen = choose(job, 256, [machine(8, 1)], 10**6, **compact)
    assert (chosen.rows_per_block, chosen.rows_per_file) == (256, 256)


def test_a_cluster_is_not_filled_with_actors_that_reserve_nothing(capsys):
    """On a head of two CPUs any number of actors would fit by a share of what is up."""
    head = [machine(2)]

    def check(rows=1000, nodes=head, **given):
        job = JobSettings(manifest="m", output="o", **given)
        check_cpu_actors(job, choose(job, 256, nodes, rows), nodes)
        return capsys.readouterr().err

    refused = "cpus_per_actor: the cluster has 2 CPUs now and no GPU, so what each of 100 actors"
    for given in ({}, {"gpus_per_actor": 0.0}):
        with pytest.raises(SettingError, match=refused):
            check(actors=100, **given)
    with pytest.raises(SettingError, match="has 0 CPUs now and no GPU, so what each of 1 actors"):
        check(nodes=[machine(0)])
    # What is asked for, or fits on what is up, is done: with a word, if GPUs may have been meant.
    assert check() == ""
    assert check(actors=100, cpus_per_actor=3.0) == ""
    assert check(actors=100, gpus_per_actor=1.0) == ""
    assert check(actors=4, nodes=[machine(8, 4)]) == ""
    assert check(actors=2, gpus_per_actor=0.0) == ""
    for rows, actors in ((1000, 2), (1, 100)):
        assert "note: the cluster has no GPU now" in check(rows, actors=actors)


def per_block_and_file(job, size, rows, **loaded):
    chosen = choose(job, size, [machine(4)], rows, **loaded)
    return chosen.rows_per_block, chosen.rows_per_file


def rows_per_block(job, size, rows, **loaded):
    return per_block_and_file(job, size, rows, **loaded)[0]


def test_a_long_job_has_a_bounded_number_of_files():
    job = JobSettings(manifest="m", output="o")
    assert per_block_and_file(job, 256, 100) == (4, 4)
    assert per_block_and_file(job, 256, 1_000_000) == (200, 200)
    one_is_large = [(None, 1), (8192, 1)]
    assert per_block_and_file(job, 256, 1_000_000, shapes=one_is_large) == (1, 200)
    # What is given is meant.
    given = JobSettings(manifest="m", output="o", rows_per_block=3)
    assert per_block_and_file(given, 256, 1_000_000) == (3, 3)


def test_blocks_of_large_images_are_small():
    job = JobSettings(manifest="m", output="o", batch_size=4)
    assert [rows_per_block(job, size, 1000) for size in (256, 2048)] == [16, 10]
    # The style images count as they are loaded, and the largest row of the plan.
    larger = {"style_scale": 4.0}, {"shapes": [(None, 5)]}, {"shapes": [(None, 1), (2048, 1)]}
    assert [rows_per_block(job, 1024, 1000, **how) for how in larger] == [5, 14, 10]
    # With image_size on the short edge a picture has more than its square.
    assert rows_per_block(job, 2048, 1000, image_edge="short") == 5
    # An actor has three blocks at hand, and four slots.
    assert rows_per_block(job, 8192, 1000) == 2
