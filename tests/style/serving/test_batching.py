"""Lanes and the batcher: the fast path against the plain one, and pairs that come and go."""

import contextlib
import dataclasses
import statistics
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_targets
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.recipe import Pair, Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import check_precision
from pipeline.style.serving.lanes import Lane, Start, teach
from pipeline.style.serving.phases import Done, phases_of
from tests.conftest import picture
from tests.style.network.plain_weights import equal_weights

PLAIN = {
    "spectral_exponent": 0.0, "color_preconditioner": False, "learn_preconditioner": False,
    "tolerance": 0.0, "init_image": "content", "first_step": 1.0,
}  # fmt: skip


@pytest.fixture
def network(quick):
    return load_network(quick)


def plain_objective(network, content, style, settings):
    """The paper's loss as PyTorch's tutorial would write it: autograd, one image."""
    P = network(content[None], settings.content_layers)
    A = {
        layer: losses.gram_matrix(F) / F[0, 0].numel()
        for layer, F in network(style[None], settings.style_layers).items()
    }

    def loss_and_gradient(image):
        leaf = image.detach().clone().requires_grad_(True)
        F = network(leaf, {*P, *A})
        loss = settings.content_weight * sum(losses.content_loss(F[k], P[k]) for k in P)
        for layer, w in equal_weights(0, 1, settings).w.items():
            style_loss = losses.layer_style_loss(F[layer], A[layer] * F[layer][0, 0].numel())
            loss = loss + settings.style_weight * w * style_loss
        loss = loss + settings.tv_weight * losses.tv_loss(leaf)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    return loss_and_gradient


REAL = StyleSettings(
    weights="compact", scales=1, content_weight=1e-4, content_weight_unit="alpha",
    style_layer_weights="equal", tv_weight=0.0,
)  # fmt: skip


def test_after_50_evaluations_the_loss_is_the_plain_loops():
    """The same L-BFGS on autograd's gradients, one pair at a time, in float32."""
    settings = dataclasses.replace(REAL, iterations=50, **PLAIN)
    network = load_network(settings)
    contents = torch.stack([picture(seed, 64, 64) for seed in range(3)])
    styles = torch.stack([picture(10 + seed, 64, 64) for seed in range(3)])
    _, histories = stylize_batch(contents, styles, settings, network=network)
    for content, style, history in zip(contents, styles, histories, strict=True):
        plain = plain_objective(network, content, style, settings)
        solver = LBFGS(content.flatten()[None], first_step=1 / 255, bounds=(0, 1))
        for _ in range(50):
            loss, gradient = plain(solver.x.view(1, 3, 64, 64))
            solver.step(loss, gradient.flatten(1), torch.ones(1, dtype=torch.bool))
        assert history.total[-1] == pytest.approx(float(solver.loss[0]), rel=0.005)


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
def test_the_gradient_by_hand_is_autograds(quick, padding, pooling, low_memory):
    settings = dataclasses.replace(
        quick, padding=padding, pooling=pooling, tv_weight=0.3, content_weight=0.1,
        content_layers=("conv2_2", "conv5_1"), style_layers=("conv1_1", "conv2_2", "conv4_3"),
    )  # fmt: skip
    network = load_network(settings).double()
    content, style, image = (picture(seed, 48, 50).double() for seed in range(3))
    objective = Objective(network, 2, settings, low_memory=low_memory)
    target = style_targets(network, style, (48, 50), dataclasses.replace(settings, scales=1))[0]
    weights = equal_weights(0.1, 1.0, settings, tv=0.3)
    objective.put(0, content, target, weights)
    objective.put(1, image, target, weights)
    loss, gradient = objective(torch.stack([image, content]))
    expected, autograds = plain_objective(network, content, style, settings)(image[None])
    assert torch.allclose(loss[:1], expected, rtol=1e-9)
    assert torch.allclose(gradient[:1], autograds, rtol=1e-7, atol=1e-12)


def problem(network, settings, seed=0, size=(64, 64)):
    targets = style_targets(network, picture(10 + seed, 64, 64), size, settings)
    return Problem(picture(seed, *size), targets, settings)


def submit(batcher, key, settings, seed=0, size=(64, 64), suspect=False):
    pair = Pair(picture(seed, *size), [picture(10 + seed, 64, 64)], settings)
    batcher.submit(key, pair, suspect=suspect)


def finish(batcher) -> dict:
    found = dict(batcher.drain())
    assert all(isinstance(answer, Done) for answer in found.values()), found
    return found


@pytest.mark.parametrize("change", [PLAIN, {"tolerance": 0.0}])
def test_a_pairs_picture_does_not_depend_on_who_comes_and_goes_beside_it(quick, network, change):
    settings = dataclasses.replace(quick, iterations=24, **change)
    alone = Batcher(network, 3)
    submit(alone, "it", settings)
    expected = finish(alone)["it"]
    crowd = Batcher(network, 3)
    for index, iterations in enumerate((3, 11, 7, 5, 9)):
        other = dataclasses.replace(settings, iterations=iterations)
        submit(crowd, index, other, seed=1 + index)
    crowd.tick()
    submit(crowd, "it", settings)
    found = finish(crowd)
    assert len(found) == 6
    assert torch.equal(found["it"].image, expected.image)
    assert found["it"].history == expected.history


def test_a_pair_that_is_done_makes_room_for_the_next(quick, network):
    batcher = Batcher(network, 2)
    for index in range(6):
        settings = dataclasses.replace(quick, iterations=4 + 4 * (index % 2), **PLAIN)
        submit(batcher, index, settings, seed=index)
    assert len(finish(batcher)) == 6
    assert batcher.occupied == sum(4 + 4 * (index % 2) for index in range(6))
    assert batcher.evaluated == 40  # one batch after another would take 48


@pytest.mark.usefixtures("small_scales")
def test_pairs_of_several_shapes_and_settings_keep_apart(quick, network):
    batcher = Batcher(network, 4)
    wide = dataclasses.replace(quick, scales=2, **PLAIN)
    submit(batcher, "a", wide, size=(128, 160))
    submit(batcher, "b", dataclasses.replace(quick, optimizer="adam"), seed=1)
    submit(batcher, "c", quick, seed=2, size=(64, 96))
    shapes = {key: tuple(done.image.shape[1:]) for key, done in finish(batcher).items()}
    assert shapes == {"a": (128, 160), "b": (64, 64), "c": (64, 96)}


def test_what_a_pair_teaches_lowers_its_loss():
    network = load_network(REAL)
    learning = dataclasses.replace(REAL, iterations=60, tolerance=0.0, content_weight=1e-7)
    results = []
    for settings in (learning, dataclasses.replace(learning, learn_preconditioner=False)):
        batcher = Batcher(network, 4)
        for index in range(4):
            submit(batcher, index, settings, seed=index)
        found = finish(batcher)
        results.append([found[index].history for index in range(4)])
    ratios = []
    for learnt, unlearnt in zip(*results, strict=True):
        ratios.append(learnt.total_loss / unlearnt.total_loss)
    assert statistics.mean(ratios) < 0.95  # 0.82 when this was written


def test_what_a_pair_has_taught_is_kept_in_its_next_lane():
    """It teaches after so many evaluations at a size, whichever lanes they are done in."""
    network = load_network(REAL)
    settings = dataclasses.replace(REAL, tolerance=0.0)
    pair = problem(network, settings)
    start = Start(
        pair.content_image, pair.content_image, pair.style_targets[0], equal_weights(1e-4), 100
    )
    first = Lane(network, (64, 64), 1, settings)
    first.enter(0, start)
    for _ in range(30):
        first.tick()
    known = first.known(0)
    second = Lane(network, (64, 64), 1, settings)
    second.enter(0, dataclasses.replace(start, known=known))
    metrics = []
    for _ in range(11):
        second.tick()
        metrics.append(second.precondition.metric(0))
    for name in ("rings", "root"):
        *before, after = (getattr(metric, name) for metric in metrics)
        assert all(each.equal(getattr(known.metric, name)) for each in before)
        assert not after.equal(before[0])  # after 40 in all


def taught_lane(network, ticks):
    """Three slots of as many pairs, entered one after another."""
    settings = dataclasses.replace(REAL, tolerance=0.0)
    lane = Lane(network, (64, 64), 3, settings)
    for tick in range(ticks):
        if tick < 3:
            pair = problem(network, settings, seed=tick)
            content, target = pair.content_image, pair.style_targets[0]
            lane.enter(tick, Start(content, content, target, equal_weights(1e-4), 10**9))
        lane.tick()
    return lane


def state_of(lane):
    """Of all that learning writes to, and what it reads."""
    P, optimizer = lane.precondition, lane.optimizer
    buffers = (P.rings, P.inverse, P.root, P.table, *optimizer.history.buffers)
    return [buffer.clone() for buffer in buffers]


def test_a_slot_that_learns_leaves_the_others_as_they_are():
    network = load_network(REAL)
    lane = taught_lane(network, 8)
    known = lane.optimizer.history.curvature(0), lane.precondition.metric(0)
    image, taught = lane.optimizer.accepted[0].clone(), []
    for slot in range(3):  # the same pair in each
        lane.optimizer.reset(slot, image, known[0])
        lane.precondition.put(slot, metric=known[1])
        before = state_of(lane)
        teach(lane.optimizer, lane.precondition, torch.tensor([slot]))
        after = state_of(lane)
        for old, new in zip(before, after, strict=True):
            others = [other for other in range(3) if other != slot]
            assert torch.equal(new[others], old[others])
        assert not torch.equal(after[0][slot], before[0][slot])
        taught.append([new[slot] for new in after])
    for other in taught[1:]:
        for found, expected in zip(other, taught[0], strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("pairs", [0, 1, 2, 3])
def test_too_few_steps_teach_nothing(pairs):
    """Nor do those of which no finite metric comes."""
    lane = taught_lane(load_network(REAL), 8)
    lane.optimizer.history.pairs[1] = pairs
    if pairs == 3:
        lane.optimizer.history.basis[1, 0, 0] = 1e30
    before = state_of(lane)
    teach(lane.optimizer, lane.precondition, torch.tensor([1]))
    for found, expected in zip(state_of(lane), before, strict=True):
        assert torch.equal(found, expected)


def test_what_lies_in_rows_without_a_step_teaches_nothing():
    network = load_network(REAL)
    clean, full = (taught_lane(network, 8) for _ in range(2))
    expected, found = (lane.optimizer.history for lane in (clean, full))
    unused = range(int(found.pairs[1]), found.rows)
    for row in unused:
        found.basis[1, [row, found.rows + row]] = torch.nan
        for matrix in (found.SY, found.YY):
            matrix[1, row] = matrix[1, :, row] = torch.nan
    for lane in (clean, full):
        teach(lane.optimizer, lane.precondition, torch.tensor([1]))
    assert len(unused) >= 3
    assert torch.equal(full.precondition.table, clean.precondition.table)
    assert torch.equal(full.precondition.root, clean.precondition.root)
    assert torch.equal(found.gamma, expected.gamma)
    assert torch.equal(found.YY, expected.YY)
    kept = [*range(found.rows, found.rows + unused[0]), -1]
    assert torch.equal(found.basis[1, kept], expected.basis[1, kept])


class Watch(TorchDispatchMode):
    """What is called of PyTorch."""

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.called.add(call._schema.name.removeprefix("aten::"))
        return call(*args, **kwargs or {})


def test_learning_asks_the_device_for_nothing():
    """So that a CUDA graph can hold it: neither for values nor for shapes that depend on them."""
    lane = taught_lane(load_network(REAL), 8)
    with Watch() as watch:
        teach(lane.optimizer, lane.precondition, lane.learner)
    waiting = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique_dim", "equal"}
    waiting |= {"_linalg_eigh", "linalg_inv_ex", "linalg_cholesky_ex", "_linalg_solve_ex"}
    assert not watch.called & waiting
    assert "index_copy_" in watch.called


def test_mixed_precision_ends_in_float32_near_the_same_loss():
    settings = dataclasses.replace(REAL, iterations=150, tolerance=0.0)
    network = load_network(settings)
    mixed = dataclasses.replace(settings, precision="mixed")
    phases = phases_of((64, 64), mixed, torch.bfloat16)
    assert [(phase.half, phase.most) for phase in phases] == [(True, 135), (False, 15)]
    results = []
    for each in (settings, mixed):
        batcher = Batcher(network, 2)
        for index in range(2):
            submit(batcher, index, each, seed=index)
        found = finish(batcher)
        results.append([found[index].history for index in range(2)])
    for plain, history in zip(*results, strict=True):
        (_, half), (_, full) = history.phases
        assert half > 100  # it is not its rounding that ends it
        assert half + full == history.evaluations == 150
        assert history.total_loss == pytest.approx(plain.total_loss, rel=0.01)


def test_iterations_fewer_than_scales_go_to_the_finest():
    settings = StyleSettings(scales=3, iterations=2)
    assert [(s.size, s.most) for s in phases_of((256, 256), settings, torch.bfloat16)] == [
        ((256, 256), 2)
    ]


class Room:
    """Memory for so many slots, in all lanes that anything still holds."""

    def __init__(self, slots, words=None):
        self.slots, self.lanes = slots, weakref.WeakSet()
        self.error = RuntimeError(words) if words else torch.OutOfMemoryError("no memory")

    def check(self, slots):
        if slots + sum(lane.slots for lane in self.lanes) > self.slots:
            raise self.error.with_traceback(None)

    def lane(self, network, size, slots, *rest, **more):
        self.check(slots)
        lane = Lane(network, size, slots, *rest, **more)
        self.lanes.add(lane)
        return lane


def answers_of(batcher, settings, pairs=6):
    for index in range(pairs):
        size = (64, 64) if index % 2 else (64, 80)
        submit(batcher, index, settings, seed=index, size=size)
    answers = dict(batcher.drain())
    assert len(answers) == pairs
    return list(answers.values())


@pytest.mark.parametrize("room", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("words", [None, "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_where_a_lane_finds_no_memory_it_has_fewer_slots(quick, network, monkeypatch, room, words):
    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", Room(room, words).lane)
    settings = dataclasses.replace(quick, iterations=5)
    for answer in answers_of(Batcher(network, 8), settings):
        assert isinstance(answer, Done if room else torch.OutOfMemoryError)


def test_a_pair_that_finds_no_memory_in_a_lane_leaves_the_others_theirs(
    quick, network, monkeypatch
):
    """The third in a lane is one too many; the lane has gone before a smaller one comes."""
    room, enter = Room(8), Lane.enter

    def narrow(lane, slot, start):
        if len(lane.traces) == 2:
            raise torch.OutOfMemoryError("no memory")
        enter(lane, slot, start)

    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", room.lane)
    monkeypatch.setattr(Lane, "enter", narrow)
    batcher = Batcher(network, 8)
    settings = dataclasses.replace(quick, iterations=5)
    assert all(isinstance(answer, Done) for answer in answers_of(batcher, settings))
    assert {fit.slots for fit in batcher.pool.fits.values()} == {2}


def test_a_tick_that_finds_no_memory_has_that_of_empty_lanes(quick, network, monkeypatch):
    room, advance = Room(99), Lane._advance

    def narrow(lane):
        if len(room.lanes) > 1:
            raise torch.OutOfMemoryError("no memory")
        advance(lane)

    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", room.lane)
    monkeypatch.setattr(Lane, "_advance", narrow)
    batcher = Batcher(network, 1)
    settings = dataclasses.replace(quick, iterations=5)
    for pairs in (1, 2):  # of one size, then of another, too
        answers = answers_of(batcher, settings, pairs)
        assert all(isinstance(answer, Done) for answer in answers)


def test_a_pair_that_no_tick_has_room_for_leaves_those_of_other_sizes(quick, network, monkeypatch):
    tick = Lane.tick

    def narrow(lane):
        if lane.size == (64, 80):
            raise torch.OutOfMemoryError("no memory")
        return tick(lane)

    monkeypatch.setattr(Lane, "tick", narrow)
    batcher = Batcher(network, 2)
    settings = dataclasses.replace(quick, iterations=5)
    assert isinstance(answers_of(batcher, settings, 1)[0], torch.OutOfMemoryError)
    submit(batcher, "next", settings, size=(64, 64))
    assert list(finish(batcher)) == ["next"]


def limit_evaluations(monkeypatch, slots):
    """Memory for an evaluation of so many slots, however many of them are filled."""
    evaluate = Objective.__call__

    def narrow(objective, images):
        if len(images) > slots:
            raise torch.OutOfMemoryError("no memory")
        return evaluate(objective, images)

    monkeypatch.setattr(Objective, "__call__", narrow)


@pytest.mark.parametrize("pairs", [1, 2, 3, 9])
def test_few_pairs_in_a_lane_that_is_too_large_have_a_smaller_one(
    quick, network, monkeypatch, pairs
):
    limit_evaluations(monkeypatch, 2)
    settings = dataclasses.replace(quick, iterations=5)
    answers = answers_of(Batcher(network, 8), settings, pairs)
    assert all(isinstance(answer, Done) for answer in answers)
    assert {answer.slots for answer in answers} == {2}


def test_when_memory_is_free_again_lanes_have_all_their_slots(quick, network, monkeypatch):
    """It was too small beside another lane."""
    room = Room(9)
    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", room.lane)
    settings = dataclasses.replace(quick, iterations=5)
    batcher = Batcher(network, 8)
    for pairs in (2, 1):
        slots = [answer.slots for answer in answers_of(batcher, settings, pairs)]
    assert slots == [8]


def test_a_finished_picture_is_worth_the_memory_of_empty_lanes(quick, network, monkeypatch):
    room, terms = Room(99), Objective.terms

    def narrow(objective, slot, image, exact=None):
        if len(room.lanes) > 1:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
        return terms(objective, slot, image, exact)

    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", room.lane)
    monkeypatch.setattr(Objective, "terms", narrow)
    batcher = Batcher(network, 1)
    settings = dataclasses.replace(quick, iterations=5)
    for size in ((64, 64), (64, 80)):
        submit(batcher, size, settings, size=size)
        assert isinstance(finish(batcher)[size], Done)
    monkeypatch.setattr("pipeline.style.serving.batching.history_of", no_memory)
    submit(batcher, "last", settings)
    assert isinstance(dict(batcher.drain())["last"], torch.OutOfMemoryError)


@pytest.fixture
def float16(monkeypatch):
    """Mixed precision as on a GPU."""
    for place in ("serving.batching", "network.vgg"):
        monkeypatch.setattr(f"pipeline.style.{place}.half_type", lambda device: torch.float16)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_pair_beyond_the_range_of_float16_is_done_in_float32(
    optimizer, quick, network, float16, monkeypatch
):
    """And its history is that of a run in float32."""
    settings = dataclasses.replace(quick, iterations=8, scales=1, optimizer=optimizer)
    monkeypatch.setattr(Objective, "_first_scale", lambda *_: 2.0**90)
    histories = []
    for precision in ("float32", "mixed"):
        batcher = Batcher(network, 2)
        each = dataclasses.replace(settings, precision=precision)
        submit(batcher, "pair", each)
        histories.append(finish(batcher)["pair"].history)
    assert histories[0] == histories[1]


@pytest.mark.usefixtures("small_scales")
def test_a_pair_that_float16_fails_on_the_way_goes_on_in_float32(float16, monkeypatch):
    """Whatever phase it is in; what it has done is kept."""
    settings = dataclasses.replace(REAL, iterations=40, tolerance=0.0, scales=2)
    settings = dataclasses.replace(settings, precision="mixed")
    network, advance, ticks = load_network(settings), Lane._advance, 0

    def broken(lane):
        nonlocal ticks
        ticks += 1
        if lane.objective.network.dtype == torch.float16 and ticks > 23:
            monkeypatch.setattr(lane.objective, "_leave", lambda g: g[:, :3].float() * torch.nan)
        advance(lane)

    monkeypatch.setattr(Lane, "_advance", broken)
    batcher = Batcher(network, 2)
    submit(batcher, "pair", settings, size=(128, 128))
    done = finish(batcher)["pair"]
    (coarse, first), (fine, half), (same, full) = done.history.phases
    assert (coarse, fine, same) == ((64, 64), (128, 128), (128, 128))
    assert (first, half + full) == (20, 20)
    assert done.history.evaluations == len(done.history.total) == 40
    assert done.history.stop == "iterations"
    assert not batcher.running
    assert all(lane.free() == 0 for lane in batcher.pool.lanes.values())


def test_in_float16_a_pair_is_as_good_and_its_losses_are_float32s(float16):
    settings = dataclasses.replace(REAL, iterations=60, tolerance=0.0)
    network = load_network(settings)
    results = []
    for precision in ("float32", "mixed"):
        batcher = Batcher(network, 2)
        each = dataclasses.replace(settings, precision=precision)
        submit(batcher, "pair", each)
        results.append(finish(batcher)["pair"])
    plain, mixed = (result.history for result in results)
    assert mixed.evaluations == plain.evaluations == 60
    assert mixed.total_loss == pytest.approx(plain.total_loss, rel=0.02)
    assert mixed.total[-1] != mixed.total_loss
    assert mixed.total[-1] == pytest.approx(mixed.total_loss, rel=2e-3)


@pytest.mark.parametrize("content_weight", [1e-3, 1e-2])
def test_where_content_rules_float16_does_not_lose_the_styles_first_gradient(
    content_weight, quick, network, float16
):
    settings = dataclasses.replace(quick, iterations=10, precision="mixed", scales=1)
    settings = dataclasses.replace(settings, content_weight=content_weight)
    batcher = Batcher(network, 1)
    submit(batcher, "pair", settings)
    history = finish(batcher)["pair"].history
    assert history.steps > 3
    assert history.stop != "stuck"
    assert history.total[-1] < history.total[0]


def test_a_picture_is_kept_where_float32_has_no_room_for_its_losses(
    quick, network, float16, monkeypatch
):
    terms = Objective.terms

    def narrow(objective, slot, image, exact=None):
        if exact is not None:
            raise torch.OutOfMemoryError("no memory")
        return terms(objective, slot, image)

    monkeypatch.setattr(Objective, "terms", narrow)
    settings = dataclasses.replace(quick, iterations=5, precision="mixed")
    batcher = Batcher(network, 1)
    submit(batcher, "pair", settings)
    assert isinstance(finish(batcher)["pair"], Done)


def no_memory(*_):
    raise torch.OutOfMemoryError("no memory")


def test_a_gpu_without_units_for_16_bits_is_told_before_any_pair(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla P4")
    mixed = StyleSettings(precision="mixed")
    for capability, settings, fine in (
        ((6, 1), mixed, False),
        ((6, 1), StyleSettings(), True),
        ((7, 0), mixed, True),
        ((12, 0), mixed, True),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        expected = pytest.raises(RuntimeError, match=r"Tesla P4 has 6\.1; give --precision float32")
        with contextlib.nullcontext() if fine else expected:
            check_precision(settings, torch.device("cuda", 0))


def test_only_so_many_lanes_are_open_at_a_time(quick, network):
    batcher = Batcher(network, 2)
    settings = dataclasses.replace(quick, iterations=3)
    sizes = [(64, 64 + 16 * index) for index in range(11)]
    for key, size in enumerate(sizes * 2):
        submit(batcher, key, settings, size=size)
    most, done = 0, []
    while len(batcher):
        done += batcher.tick()
        most = max(most, len(batcher.running))
    assert most == 8
    assert len(done) == 2 * len(sizes)


def test_the_fullest_lane_goes_first_and_of_equals_the_finest(quick, network):
    """But of 16 evaluations one is for the lane that has waited longest."""
    settings = dataclasses.replace(quick, iterations=100, tolerance=0.0)
    wide, small, large = (64, 96), (64, 64), (96, 96)

    def turns(*sizes):
        batcher = Batcher(network, 2)
        for key, size in enumerate(sizes):
            submit(batcher, key, settings, size=size)
        went = []
        for _ in range(32):
            batcher.tick()
            went += [key[0] for key, at in batcher.turns.items() if at == batcher.ticks]
        return went

    assert turns(large, small, small) == ([small] * 15 + [large]) * 2
    assert turns(small, large, wide) == ([large] * 15 + [small] + [large] * 15 + [wide])


def test_a_rare_pair_is_not_kept_waiting_by_those_that_come_later(quick, network, monkeypatch):
    """Neither in its lane, beside full ones, nor for a lane where all are in use."""
    monkeypatch.setattr("pipeline.style.serving.batching.OPEN_LANES", 1)
    monkeypatch.setattr("pipeline.style.serving.batching.PATIENCE", 20)
    settings = dataclasses.replace(quick, iterations=5)

    def ticks_until_the_rare_one_is_done(rare_first):
        batcher, key = Batcher(network, 2), 0
        if rare_first:
            submit(batcher, "rare", settings, size=(64, 80))
            batcher.tick()
            monkeypatch.setattr("pipeline.style.serving.batching.OPEN_LANES", 2)
        for tick in range(1000):
            while len(batcher) < 5:
                submit(batcher, key, settings)
                key += 1
            if tick == 1 and not rare_first:
                submit(batcher, "rare", settings, size=(64, 80))
            if "rare" in dict(batcher.tick()):
                return tick
        raise AssertionError("it was never done")

    assert ticks_until_the_rare_one_is_done(rare_first=False) < 60
    assert ticks_until_the_rare_one_is_done(rare_first=True) < 100


@pytest.mark.usefixtures("small_scales")
def test_pairs_between_two_phases_have_begun(quick, network):
    batcher = Batcher(network, 1)
    settings = dataclasses.replace(quick, scales=2, iterations=4, image_size=128)
    submit(batcher, 0, settings, size=(128, 128))
    begun = [batcher.begun]
    while len(batcher):
        batcher.tick()
        begun.append(batcher.begun)
    assert begun == [0, 1, 1, 1, 0]  # after the second tick it waits for its finer scale


def test_a_pair_that_is_to_be_alone_is_next_with_nothing_begun_beside_it(quick, network):
    """In a lane of one slot, whatever phase it and the others are in."""
    batcher = Batcher(network, 2)
    settings = dataclasses.replace(quick, scales=2, iterations=8, image_size=128)
    sizes = [(128, 128), (128, 160)]
    for key in range(8):
        submit(batcher, key, settings, seed=key, size=sizes[key % 2], suspect=key >= 6)
        if key == 1:
            batcher.tick()
    order = []
    while len(batcher):
        for key, done in batcher.tick():
            order.append(key)
            assert done.slots == (1 if key >= 6 else 2)
        pairs = [pair for some in batcher.running.values() for pair in some.values()]
        if any(pair.suspect for pair in pairs):
            assert batcher.begun == 1
    assert len(order) == 8
    assert set(order[:2]) == {0, 1}
    assert set(order[2:4]) == {6, 7}


@pytest.mark.parametrize("first_alone", [True, False])
def test_memory_of_idle_lanes_serves_a_pair_that_is_to_be_alone_and_the_others(
    quick, network, monkeypatch, first_alone
):
    """All lanes are of one pool."""
    room = Room(4)
    monkeypatch.setattr("pipeline.style.serving.lane_pool.Lane", room.lane)
    batcher = Batcher(network, 4)
    settings = dataclasses.replace(quick, iterations=5)
    for alone in (first_alone, not first_alone):
        size = (64, 80) if alone else (64, 64)
        submit(batcher, alone, settings, size=size, suspect=alone)
        assert finish(batcher)[alone].slots == (1 if alone else 4)
