"""What the method costs: the style half of ``jobs.benchmark``. Needs torch alone, no Ray.

What is compared is measured in turns, in one run. Nothing is asserted.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jobs.bench.alone import Numbers
from jobs.bench.inputs import pictures, ready, succeeded
from pipeline.settings import StyleSettings
from pipeline.style.hardware.graphs import recorder_of
from pipeline.style.method.balance import loss_weights
from pipeline.style.method.targets import Size, style_target, style_targets
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG, half_precision
from pipeline.style.optimize import stylize_batch
from pipeline.style.recipe import Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lanes import Lane, Start
from pipeline.style.serving.phases import Done

Precision = Literal["float32", "mixed"]

WARM_UP = 4
"""Turns of a measurement that do not count."""


def lane_of(
    network: VGG,
    settings: StyleSettings,
    images: Sequence[Tensor],
    style: Tensor,
    *,
    low_memory: bool = False,
) -> Lane:
    """Return a lane that is full for ever, with a slot for each content image (3, H, W)."""
    target = style_target(network, style, settings)
    size, recorder = (images[0].shape[1], images[0].shape[2]), recorder_of(network.device)
    lane = Lane(network, size, len(images), settings, low_memory=low_memory, recorder=recorder)
    for slot, image in enumerate(images):
        weights = loss_weights(network, image, target, settings)
        lane.enter(slot, Start(image, image, target, weights, 10**9))
    return lane


def filled_lane(network: VGG, settings: StyleSettings, size: int, batch: int) -> Lane:
    """Return a full lane of painted squares of ``size`` pixels."""
    *images, style = pictures(batch + 1, (size, size)).to(network.device)
    return lane_of(network, settings, images, style)


def floor(
    weights: str, size: int, batch: int, rounds: int, device: str, dtype: torch.dtype
) -> Numbers:
    """Measure the seconds of a tick over those of the bare network's forward and backward pass.

    The bare pass is PyTorch's own, with the same layers, batch, size, type and memory format. It
    computes the gradient of the deepest layer's activations with respect to the images and nothing
    else.
    """
    network, settings = ready(weights, device, tolerance=0, scales=1)
    flops = 2 * network_macs(network, (size, size)) * 2 * batch
    if dtype != torch.float32:
        network = half_precision(network)
    lane = filled_lane(network, settings, size, batch)
    images = pictures(batch, (size, size)).to(device)

    def bare() -> None:
        leaf = images.clone().requires_grad_(True)
        deepest = network(leaf, [settings.deepest_layer])[settings.deepest_layer]
        torch.autograd.grad(deepest, leaf, torch.ones_like(deepest))

    def evaluation() -> None:
        lane.objective(images)

    bare_s, evaluation_s, tick_s = in_turns([bare, evaluation, lane.tick], rounds, device)
    peak_tflops = matrix_peak(device, dtype)
    return {
        "weights": weights, "size": size, "batch": batch, "device": device, "type": str(dtype),
        "bare_seconds": bare_s, "evaluation_seconds": evaluation_s, "tick_seconds": tick_s,
        "evaluation_over_bare": evaluation_s / bare_s, "tick_over_bare": tick_s / bare_s,
        "gflop_per_image": flops / batch / 1e9, "tflops": flops / tick_s / 1e12,
        "matrix_peak_tflops": peak_tflops, "share_of_peak": flops / tick_s / 1e12 / peak_tflops,
    }  # fmt: skip


def in_turns(works: list[Callable[[], Any]], rounds: int, device: str) -> list[float]:
    """Return the median seconds of each work. They are measured in turns, after a warm-up."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + WARM_UP):
        for work, seconds in zip(works, taken, strict=True):
            wait(device)
            started = time.perf_counter()
            work()
            wait(device)
            if turn >= WARM_UP:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def wait(device: str) -> None:
    """Wait until a GPU has done what it was told to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def network_macs(network: VGG, size: Size) -> int:
    """Return the multiply-adds of one image's forward pass; the backward pass takes as many."""
    H, W = size
    total = 0
    for block in network.blocks:
        for _, conv in block.convs:
            total += conv.weight.numel() * H * W
        H, W = H // 2, W // 2
    return total


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Measure the TFLOP/s of a large matrix product, the best of five.

    In float32 on a GPU it is that of TF32, the type in which PyTorch convolves there.
    """
    side = 8192 if device == "cuda" else 1024
    a = torch.rand(side, side, device=device).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    best = min(in_turns([lambda: a @ a], 5, device))
    torch.set_float32_matmul_precision(before)
    return 2 * side**3 / best / 1e12


def picture(weights: str, size: int, device: str) -> Numbers:
    """Measure the seconds of one picture with the default settings, without loading the network."""
    network, settings = ready(weights, device)
    images = pictures(2, (size, size)).to(device)
    started = time.perf_counter()
    _, (history,) = stylize_batch(images[:1], images[1:], settings, network=network)
    wait(device)
    return {
        "weights": weights, "size": size, "device": device, "evaluations": history.evaluations,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip


def throughput(
    weights: str, size: int, slots: int, pairs: int, device: str, precision: Precision
) -> Numbers:
    """Measure images per second with the default settings, over eight content images in turn."""
    network, settings = ready(weights, device, precision=precision)
    images = pictures(9, (size, size)).to(device)
    targets = style_targets(network, images[8], (size, size), settings)
    batcher = Batcher(network, slots)

    def run(pairs: int) -> list[Done]:
        for index in range(pairs):
            batcher.submit(index, Problem(images[index % 8], targets, settings))
        return [pair for _, pair in succeeded(batcher.drain())]

    run(slots)  # loads the libraries, records the graphs
    before = batcher.occupied, batcher.evaluated
    started = time.perf_counter()
    done = run(pairs)
    wait(device)
    seconds = time.perf_counter() - started
    flops = sum(
        4 * network_macs(network, at) * evaluations
        for pair in done
        for at, evaluations in pair.history.phases
    )
    return {
        "weights": weights, "size": size, "slots": slots, "device": device, "pairs": pairs,
        "precision": precision, "images_per_second": len(done) / seconds,
        "evaluations": statistics.mean(pair.history.evaluations for pair in done),
        "occupancy": (batcher.occupied - before[0]) / (batcher.evaluated - before[1]),
        "tflops": flops / seconds / 1e12,
    }  # fmt: skip


def precision(weights: str, size: int, pairs: int, device: str) -> Numbers:
    """Measure the loss in float32 of a mixed run over that of a float32 run, pair by pair.

    To show what such a ratio means, a second float32 run starts with noise of 1e-6 added: two
    hundred steps amplify any rounding. The pairs run side by side.
    """
    network, settings = ready(weights, device, tolerance=0, iterations=200)
    images = pictures(pairs + 1, (size, size)).to(device)
    contents, styles = images[:pairs], [images[pairs]] * pairs
    noise = 1e-6 * torch.randn(images[0].shape, generator=torch.Generator().manual_seed(1))

    def losses_of(contents: Tensor, kind: Precision) -> list[float]:
        settled = replace(settings, precision=kind)
        _, histories = stylize_batch(contents, styles, settled, network=network)
        return [history.total_loss for history in histories]

    plain = losses_of(contents, "float32")
    shaken = losses_of((contents + noise.to(device)).clamp(0, 1), "float32")
    ratios = [
        [loss / of_plain for loss, of_plain in zip(losses, plain, strict=True)]
        for losses in (losses_of(contents, "mixed"), shaken)
    ]
    return {
        "weights": weights, "size": size, "device": device,
        "mixed_over_float32": ratios[0], "mean": statistics.mean(ratios[0]),
        "shaken_over_float32": ratios[1], "shaken_mean": statistics.mean(ratios[1]),
    }  # fmt: skip


def occupancy(pairs: int = 256, slots: int = 8, waiting: int = 96) -> Numbers:
    """Measure the share of evaluated slots that held a pair, over pairs of four shapes.

    Pairs converge at different speeds. For comparison, ``without_refilling`` is the share in
    batches of one shape that each wait for their slowest pair. Random weights of few filters are
    enough here.

    Args:
        pairs: how many are optimised.
        slots: slots of a lane.
        waiting: most pairs that are known at a time: an actor knows three blocks of 32 rows.
    """
    settings = StyleSettings(tolerance=0.2, iterations=400, scales=1)
    network = VGG(random_weights(7, (4, 6, 8, 8, 8)), deepest_layer="conv5_1")
    sizes = [(64, 64), (64, 48), (48, 64), (64, 80)]
    rng = np.random.Generator(np.random.PCG64(3))
    images = {size: pictures(6, size) for size in sizes}
    target = {size: style_targets(network, images[size][5], size, settings) for size in sizes}
    batcher = Batcher(network, slots)
    todo = [(sizes[rng.integers(4)], int(rng.integers(5))) for _ in range(pairs)]
    evaluations: dict[Hashable, int] = {}
    shape_of: dict[Hashable, Size] = {}
    while todo or len(batcher):
        while todo and len(batcher) < waiting:
            size, which = todo.pop()
            problem = Problem(images[size][which], target[size], settings)
            shape_of[len(todo)] = size
            batcher.submit(len(todo), problem)
        for key, done in succeeded(batcher.tick()):
            evaluations[key] = done.history.evaluations
    counts = list(evaluations.values())
    # Batches of one shape, in the order of ``todo``.
    of_shape = [
        [evaluations[key] for key in reversed(shape_of) if shape_of[key] == size] for size in sizes
    ]
    batches = [one[i : i + slots] for one in of_shape for i in range(0, len(one), slots)]
    return {
        "pairs": pairs, "slots": slots, "shapes": len(sizes), "waiting": waiting,
        "evaluations": [min(counts), statistics.median(counts), max(counts)],
        "occupancy": batcher.occupied / batcher.evaluated,
        "without_refilling": sum(counts) / sum(slots * max(batch) for batch in batches),
    }  # fmt: skip
