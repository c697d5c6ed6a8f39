"""What runs only on a GPU: kernels, recorded graphs and 16 bits, against the CPU in float64.

Without a GPU all tests are skipped. They need neither Ray nor storage:
``python -m pytest --noconftest tests/style/hardware/test_cuda.py``.
"""

import concurrent.futures
import dataclasses

import pytest
import torch

from jobs.bench.inputs import pictures, ready, succeeded
from jobs.bench.style import filled_lane
from pipeline.settings import StyleSettings
from pipeline.style.hardware import gpu_passes, pooling
from pipeline.style.hardware.graphs import recorder_of
from pipeline.style.method.losses import add_style_gradient
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_target
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG, half_precision
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.optimizer.learning import learnt_metric
from pipeline.style.optimizer.precondition import Metric, Preconditioner
from pipeline.style.recipe import Pair
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lanes import Lane, Start
from pipeline.style.serving.phases import Done
from tests.style.network.plain_weights import equal_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

NARROW = (16, 16, 24, 32, 32)


@pytest.fixture
def exact(monkeypatch):
    """Make convolutions use float32, not TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network_of(**form):
    return VGG(random_weights(7, NARROW), deepest_layer="conv5_1", **form)


def evaluated(network, images, settings, dtype=torch.float32, low_memory=False):
    """Return loss (2,) and gradient (2, 3, H, W) of two pairs made of images (4, 3, H, W)."""
    images = images.to(network.device, dtype)
    target = style_target(network, images[3], settings)
    objective = Objective(network, 2, settings, low_memory=low_memory)
    for slot in range(2):
        objective.put(slot, images[slot], target, equal_weights(1e-3))
    loss, gradient = objective(images[1:3])
    return loss.double().cpu(), gradient.double().cpu()


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("size", [(96, 64), (50, 71)])
def test_loss_and_gradient_are_the_cpus(exact, size, padding, pooling, low_memory):
    settings = StyleSettings(
        scales=1, tv_weight=0.3, padding=padding, pooling=pooling,
        style_layers=("conv1_1", "conv2_2", "conv4_1"), content_layers=("conv3_2", "conv5_1"),
    )  # fmt: skip
    images = pictures(4, size)
    loss, gradient = evaluated(
        network_of(padding=padding, pooling=pooling).cuda(),
        images, settings, low_memory=low_memory,
    )  # fmt: skip
    expected, direct = evaluated(
        network_of(padding=padding, pooling=pooling).double(), images, settings, torch.float64
    )
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    # A single ReLU whose input rounds to the other side of zero makes a difference of 2e-3.
    assert (gradient - direct).norm() < 1e-2 * direct.norm()


@pytest.mark.parametrize(
    ("half", "loss_off", "gradient_off"), [(False, 2e-3, 0.05), (True, 2e-3, 0.05)]
)
def test_tf32_and_float16_stay_within_their_rounding(half, loss_off, gradient_off):
    network, settings = ready("compact", "cuda", scales=1)
    images = pictures(4, (96, 64))
    narrow = half_precision(network) if half else network
    loss, gradient = evaluated(narrow, images, settings)
    expected, direct = evaluated(
        ready("compact", "cpu")[0].double(), images, settings, torch.float64
    )
    torch.testing.assert_close(loss, expected, rtol=loss_off, atol=0)
    assert (gradient - direct).norm() < gradient_off * direct.norm()


def without_kernels(monkeypatch):
    """Use PyTorch's operations, as on a GPU for which ``kernels.cu`` cannot be compiled."""
    monkeypatch.setattr(gpu_passes, "kernel", lambda name, like: None)


KERNELS = (
    "pool<Half>", "pool<float>", "relu_pool_backward<Half>", "relu_pool_backward<float>",
    "style_backward<64>", "style_backward<128>", "enter_network<Half, 8>",
    "enter_network<float, 3>", "leave_network<Half, 8>", "leave_network<float, 3>", "by_ring",
    "remember<11>", "move<11>",
)  # fmt: skip


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="some of them need a newer GPU",
)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_compiled_here(name):
    assert gpu_passes.kernel(name, torch.zeros(1, device="cuda")) is not None


def test_a_kernel_is_launched_from_a_thread_that_has_done_nothing_yet():
    x = rectified(torch.float32, 1, 8, 4, 4)
    expected = gpu_passes.pool(x)
    buffer = torch.zeros_like(expected)
    launch = gpu_passes.kernel("pool<float>", x)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(launch, (1, 1), 256, x, buffer, 4, 2, buffer.numel() // 4).result()
    torch.cuda.synchronize()
    assert torch.equal(buffer, expected)


def rectified(dtype, *shape):
    generator = torch.Generator("cuda").manual_seed(sum(shape))
    x = torch.randn(*shape, generator=generator, device="cuda").to(dtype)
    return x.relu().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 8, 2, 2), (3, 24, 34, 66), (2, 64, 96, 62)])
def test_pooling_by_our_kernels_is_pytorchs_to_the_bit(dtype, shape):
    x = rectified(dtype, *shape)
    pooled = gpu_passes.pool(x)
    torch.testing.assert_close(pooled, pooling.mean_of_fours(x), rtol=1e-3, atol=0)
    gradient = (pooled - 0.4).contiguous(memory_format=torch.channels_last)
    back = gpu_passes.relu_pool_backward(x, gradient)
    assert torch.equal(back, pooling.relu_mean_backward(x, gradient))
    assert back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("filters", [64, 128])
@pytest.mark.parametrize("size", [(4, 4), (33, 70), (96, 128)])
def test_the_style_gradient_by_our_kernel_is_pytorchs(filters, size, monkeypatch):
    F_l, other = (rectified(torch.float16, b, filters, *size)[-2:] for b in (2, 3))
    gram = torch.randn(2, filters, filters, device="cuda")
    gram = gram + gram.transpose(1, 2)
    weight = torch.tensor([1e4, 3e5], device="cuda") * size[0]
    gradient = other - 0.4
    ours, theirs = gradient.clone(), gradient.clone()
    assert gpu_passes.kernel(f"style_backward<{filters}>", F_l) is not None
    E, found = add_style_gradient(F_l, gram, weight, ours)
    assert found is ours
    without_kernels(monkeypatch)
    expected, by_torch = add_style_gradient(F_l, gram, weight, theirs)
    assert by_torch is theirs
    assert not theirs[F_l == 0].any()
    assert torch.equal(E, expected)
    assert not torch.equal(theirs, torch.where(F_l > 0, gradient, 0))
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3 * float(theirs.abs().max()))
    assert not ours[F_l == 0].any()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("size", [(96, 64), (50, 71), (51, 71)])
def test_an_objective_is_the_same_with_and_without_our_kernels(exact, half, size, monkeypatch):
    network, settings = ready("wide", "cuda", scales=1)
    network = half_precision(network) if half else network
    images = pictures(4, size)
    loss, gradient = evaluated(network, images, settings)
    without_kernels(monkeypatch)
    expected, other = evaluated(network, images, settings)
    torch.testing.assert_close(loss, expected, rtol=1e-4 if half else 1e-6, atol=0)
    assert (gradient - other).norm() < (1e-2 if half else 1e-4) * other.norm()


@pytest.mark.parametrize("m", [3, 10])
def test_lbfgs_is_the_same_with_and_without_our_kernels(m, monkeypatch):
    """Minimise quadratics, with values that are not finite in one slot."""
    D = 3 * 40 * 30
    scale = torch.logspace(0, 3, D, device="cuda")
    start = torch.rand(3, D, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    aim = torch.rand(3, D, device="cuda", generator=torch.Generator("cuda").manual_seed(2))
    P = 1 / (1 + torch.linspace(0, 2, D, device="cuda"))

    def steps():
        solver = LBFGS(start, history_size=m, bounds=(0.0, 1.0), first_step=0.01, reach=2.0)
        points = []
        for at in range(12):
            gradient = scale * (solver.x - aim)
            loss = 0.5 * (gradient * (solver.x - aim)).sum(dim=1)
            if at == 5:
                gradient[1, 7] = torch.nan
            active = torch.tensor([True, True, at < 8], device="cuda")
            solver.step(loss, gradient, active, P * gradient)
            points.append((solver.x.clone(), solver.loss.clone(), solver.history.SY.clone()))
        return solver, points

    solver, ours = steps()
    without_kernels(monkeypatch)
    other, theirs = steps()
    for found, expected in zip(ours, theirs, strict=True):
        for value, wanted in zip(found, expected, strict=True):
            limit = 1e-3 * float(wanted[wanted.isfinite()].abs().max())
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=limit)
    assert torch.equal(solver.history.pairs, other.history.pairs)
    assert solver.history.pairs.min() > 2


@pytest.mark.parametrize("weight", [2.0**-30, 2.0**30])
def test_gradients_in_float16_are_scaled_whatever_the_weights(weight):
    network, settings = ready("wide", "cuda", scales=1)
    half, images = half_precision(network), pictures(4, (96, 64)).cuda()
    target = style_target(network, images[3], settings)
    plain, other = Objective(half, 1, settings), Objective(half, 1, settings)
    plain.put(0, images[0], target, equal_weights(1e-7))
    other.put(0, images[0], target, equal_weights(1e-7 * weight, weight))
    for _ in range(2):  # the second uses the scale that the first has found
        gradient = plain(images[1:2])[1]
        assert gradient.isfinite().all()
        assert torch.equal(other(images[1:2])[1], gradient * weight)


def launch_singly(lane):
    for work in (lane.ticking, lane.learning):
        work.recorder = None


def test_a_recorded_tick_is_the_same_to_the_bit():
    network, settings = ready("compact", "cuda", tolerance=0, scales=1)
    recorded, launched = (filled_lane(network, settings, 96, 3) for _ in range(2))
    launch_singly(launched)
    for _ in range(25):
        recorded.tick()
        launched.tick()
    assert recorded.ticking.graph is not None
    assert launched.ticking.graph is None
    assert recorded.traces == launched.traces
    assert torch.equal(recorded.optimizer.accepted, launched.optimizer.accepted)


@pytest.mark.parametrize("size", [96, 640])
def test_recorded_learning_is_the_same_to_the_bit(size):
    """Several slots learn, two of them in one tick. At 640 px they learn in parts."""
    network, settings = ready("compact", "cuda", tolerance=0, scales=1)
    recorded, launched = (filled_lane(network, settings, size, 3) for _ in range(2))
    launch_singly(launched)
    images = pictures(4, (size, size)).to("cuda")
    target = style_target(network, images[3], settings)
    for lane in (recorded, launched):
        for slot in range(3):
            lane.leave(slot)
        # The third enters ten evaluations after the first two: its 10th is their 20th.
        for tick in range(100):
            for slot, entered in enumerate((0, 0, 10)):
                if tick == entered:
                    image = images[slot]
                    weight = settings.content_weight
                    lane.enter(slot, Start(image, image, target, equal_weights(weight), 10**9))
            lane.tick()
    assert recorded.learning.graph is not None
    assert launched.learning.graph is None
    assert recorded.traces == launched.traces
    for name in ("rings", "inverse", "root"):
        found, expected = (getattr(lane.precondition, name) for lane in (recorded, launched))
        assert torch.equal(found, expected)
        assert not torch.equal(found[0], found[1])


def test_a_pair_that_is_not_finite_leaves_nothing_in_its_slot():
    """The graph's memory is full of NaN when the next pair enters."""
    network, settings = ready("compact", "cuda", tolerance=0, scales=1)
    fresh, used = (filled_lane(network, settings, 96, 1) for _ in range(2))
    content, style = pictures(2, (96, 96)).cuda()
    target = style_target(network, style, settings)
    start = Start(content, content, target, equal_weights(1e-7), 10**9)
    for _ in range(5):
        used.tick()
    assert used.ticking.graph is not None
    used.leave(0)
    used.enter(0, dataclasses.replace(start, image=content * torch.nan))
    assert used.tick()[0].stop == "non-finite"
    used.leave(0)
    used.enter(0, start)
    for _ in range(5):
        used.tick()
        fresh.tick()
    assert used.traces == fresh.traces


def submit(batcher, settings, key, size=(96, 96), most=40):
    images = pictures(3, size)
    settings = dataclasses.replace(settings, iterations=most)
    batcher.submit(key, Pair(images[key % 2], [images[2]], settings))


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_a_pairs_picture_depends_neither_on_the_run_nor_on_its_neighbours(precision):
    network, settings = ready("compact", "cuda", precision=precision, tolerance=0)
    found = []
    for others in (range(2, 2), range(2, 2), range(2, 9)):
        batcher = Batcher(network, 3)
        for key in others:
            submit(batcher, settings, key, most=5 + 3 * key)
        submit(batcher, settings, 1)
        found.append(dict(succeeded(batcher.drain()))[1])
    for again in found[1:]:
        assert torch.equal(again.image, found[0].image)
        assert again.history == found[0].history


def test_a_pair_teaches_a_gpu_what_it_teaches_a_cpu():
    network, settings = ready("compact", "cuda", tolerance=0, scales=1, learn_preconditioner=False)
    lane = filled_lane(network, settings, 64, 1)
    for _ in range(12):
        lane.tick()
    *taught, count = lane.optimizer.history.pairs_of(lane.learner)
    assert count >= 5
    P = Preconditioner((64, 64), 1, settings.spectral_exponent, torch.zeros(1))
    begun = lane.precondition.metric(0)
    P.put(0, metric=Metric(begun.rings.cpu(), begun.root.cpu()))
    expected = learnt_metric(P, lane.learner.cpu(), *(each.cpu() for each in taught))
    found = learnt_metric(lane.precondition, lane.learner, *taught)
    torch.testing.assert_close(found.rings.cpu(), expected.rings, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.root.cpu(), expected.root, rtol=1e-3, atol=1e-6)


def test_too_little_memory_means_fewer_slots_and_no_lost_pair():
    network, settings = ready("compact", "cuda", tolerance=0, scales=1)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    # Enough for two images of 512 px, but not for sixteen.
    allowed = torch.cuda.memory_reserved() + (1200 << 20)
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        batcher = Batcher(network, 16)
        for key in range(5):
            submit(batcher, settings, key, size=(512, 512), most=6)
        found = dict(succeeded(batcher.drain()))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(found) == 5
    assert all(isinstance(answer, Done) for answer in found.values())
    assert 1 <= batcher.pool.fits[(512, 512), False].slots < 16


def test_a_lane_of_adam_is_recorded_too():
    network, settings = ready("compact", "cuda", tolerance=0, scales=1, optimizer="adam")
    image = pictures(2, (64, 64)).cuda()
    lane = Lane(network, (64, 64), 1, settings, recorder=recorder_of(network.device))
    target = style_target(network, image[1], settings)
    lane.enter(0, Start(image[0], image[0], target, equal_weights(1e-7), 30))
    while not lane.tick():
        pass
    assert lane.ticking.graph is not None
    assert lane.traces[0][-1] < lane.traces[0][0]
