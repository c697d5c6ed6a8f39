"""What the method costs: the style half of ``jobs.benchmark``. Needs torch alone, no Ray.

What is compared is measured in turns, in one run. Nothing is asserted.
"""

import functools
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.settings import LAYERS, StyleSettings
from pipeline.style.hardware.graphs import recorder_of
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.method.balance import loss_weights
from pipeline.style.method.targets import Size, style_target, style_targets
from pipeline.style.network.calibration import dead_leaves
from pipeline.style.network.rescaling import WIDTHS, random_weights
from pipeline.style.network.vgg import VGG, StateDict, half_precision, tensor_names
from pipeline.style.network.weights import build_network, load_network, load_weights
from pipeline.style.optimize import stylize_batch
from pipeline.style.recipe import Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lanes import Lane, Start
from pipeline.style.serving.phases import Done

Numbers = dict[str, Any]

PEAK_RESET = Path("/proc/self/clear_refs")


@functools.cache
def _painter(size: Size) -> tuple[np.random.Generator, list[np.ndarray]]:
    return np.random.Generator(np.random.PCG64(19)), []


def pictures(count: int, size: Size) -> Tensor:
    """(count, 3, H, W) in [0, 1]: painted by code, the same everywhere."""
    rng, painted = _painter(size)
    side = max(size)
    while len(painted) < count:
        painted.append(dead_leaves(side, 40 * 3 ** (len(painted) % 3), rng))
    stacked = np.stack(painted[:count])
    return torch.from_numpy(stacked).float()[:, :, : size[0], : size[1]]


def ready(weights: str, device: str, **changes: Any) -> tuple[VGG, StyleSettings]:
    """A network in float32 on the device, and settings that name its weights.

    ``wide``: the network of ``compact`` at the cost of VGG-16, for machines to which its weights
    cannot come: filters are repeated until the widths are VGG-16's, and give what they gave.
    """
    settings = StyleSettings(weights="compact" if weights == "wide" else weights, **changes)
    if weights != "wide":
        return load_network(settings).to(device), settings
    state, _ = load_weights(settings)
    return build_network(widened(state), settings).to(device), settings


def widened(state: StateDict) -> StateDict:
    """A network of VGG-16's widths whose filters are those of ``state``, again and again."""
    wide: StateDict = {}
    below, shares = torch.arange(3), torch.ones(3)  # the filters below, and one over their number
    for layer in (layer for layer in LAYERS if tensor_names(layer)[0] in state):
        weight, bias = tensor_names(layer)
        filters = len(state[bias])
        own = torch.arange(max(filters, WIDTHS[int(layer[4]) - 1])) % filters
        wide[weight] = state[weight][own][:, below] * shares.view(1, -1, 1, 1)
        wide[bias] = state[bias][own]
        below, shares = own, 1 / torch.bincount(own)[own]
    return wide


def filled_lane(network: VGG, settings: StyleSettings, size: int, batch: int) -> Lane:
    """A lane whose slots all hold a pair, for ever."""
    images = pictures(batch + 1, (size, size)).to(network.device)
    target = style_target(network, images[batch], settings)
    lane = Lane(network, (size, size), batch, settings, recorder=recorder_of(network.device))
    for slot in range(batch):
        weights = loss_weights(network, images[slot], target, settings)
        lane.enter(slot, Start(images[slot], images[slot], target, weights, 10**9))
    return lane


def floor(
    weights: str, size: int, batch: int, rounds: int, device: str, dtype: torch.dtype
) -> Numbers:
    """Seconds of a tick over those of the bare network's forward and backward pass.

    The bare pass is PyTorch's own: the same layers, batch, size, type and memory format, the
    gradient of the deepest layer's activations with respect to the images, and nothing else.
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
    """Median seconds of each, measured in turns; the first four turns warm up."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(rounds + 4):
        for work, seconds in zip(works, taken, strict=True):
            wait(device)
            started = time.perf_counter()
            work()
            wait(device)
            if turn >= 4:
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def network_macs(network: VGG, size: Size) -> int:
    """Multiply-adds of one image's forward pass; the way back to the image takes as many."""
    H, W = size
    total = 0
    for block in network.blocks:
        for _, conv in block.convs:
            total += conv.weight.numel() * H * W
        H, W = H // 2, W // 2
    return total


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product, the best of five; on a GPU in float32 that of TF32, in
    which PyTorch convolves there."""
    side = 8192 if device == "cuda" else 1024
    a = torch.rand(side, side, device=device).to(dtype)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    best = min(in_turns([lambda: a @ a], 5, device))
    torch.set_float32_matmul_precision(before)
    return 2 * side**3 / best / 1e12


def picture(weights: str, size: int, device: str) -> Numbers:
    """Seconds of one picture with the default settings, the network's loading left out."""
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
    weights: str, size: int, slots: int, pairs: int, device: str, precision: str
) -> Numbers:
    """Images per second with the default settings; eight contents, each as often as it takes."""
    network, settings = ready(weights, device, precision=precision)
    images = pictures(9, (size, size)).to(device)
    targets = style_targets(network, images[8], (size, size), settings)
    batcher = Batcher(network, slots)

    def run(pairs: int) -> list[Done]:
        for index in range(pairs):
            batcher.submit(index, Problem(images[index % 8], targets, settings))
        return list(finish(batcher).values())

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


def finish(batcher: Batcher) -> dict[Any, Done]:
    """What becomes of all pairs; a pair's failure is raised."""
    found = {}
    for key, answer in batcher.drain():
        if isinstance(answer, Exception):
            raise answer
        found[key] = answer
    return found


def precision(weights: str, size: int, pairs: int, device: str) -> Numbers:
    """The float32-evaluated loss of a mixed run over that of a float32 run, pair by pair.

    Beside it, as a measure of what such a ratio means, that of a second float32 run whose start
    differs by noise of 1e-6: two hundred steps amplify any rounding. The pairs run side by side.
    """
    network, settings = ready(weights, device, tolerance=0, iterations=200)
    images = pictures(pairs + 1, (size, size)).to(device)
    contents, styles = images[:pairs], [images[pairs]] * pairs
    noise = 1e-6 * torch.randn(images[0].shape, generator=torch.Generator().manual_seed(1))

    def losses_of(contents: Tensor, kind: str) -> list[float]:
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
    """The share of evaluated slots that held a pair, over pairs of four shapes.

    Convergence differs from pair to pair. At most ``waiting`` pairs are known at a time, as to an
    actor with three blocks of 32 rows. Narrow random weights: this is about the order of things.
    Beside it, the share in batches of one shape that each wait for their slowest pair.
    """
    settings = StyleSettings(tolerance=0.2, iterations=400, scales=1)
    network = VGG(random_weights(7, (4, 6, 8, 8, 8)), deepest_layer="conv5_1")
    sizes = [(64, 64), (64, 48), (48, 64), (64, 80)]
    rng = np.random.Generator(np.random.PCG64(3))
    images = {size: pictures(6, size) for size in sizes}
    target = {size: style_targets(network, images[size][5], size, settings) for size in sizes}
    batcher = Batcher(network, slots)
    todo = [(sizes[rng.integers(4)], int(rng.integers(5))) for _ in range(pairs)]
    evaluations = {}
    while todo or len(batcher):
        while todo and len(batcher) < waiting:
            size, which = todo.pop()
            problem = Problem(images[size][which], target[size], settings)
            batcher.submit((size, len(todo)), problem)
        for key, answer in batcher.tick():
            if isinstance(answer, Exception):
                raise answer
            evaluations[key] = answer.history.evaluations
    counts = list(evaluations.values())
    # Batches in the manifest's order, each of one shape.
    of_shape = [
        [evaluations[key] for key in sorted(evaluations) if key[0] == size] for size in sizes
    ]
    batches = [one[i : i + slots] for one in of_shape for i in range(0, len(one), slots)]
    return {
        "pairs": pairs, "slots": slots, "shapes": len(sizes), "waiting": waiting,
        "evaluations": [min(counts), statistics.median(counts), max(counts)],
        "occupancy": batcher.occupied / batcher.evaluated,
        "without_refilling": sum(counts) / sum(slots * max(batch) for batch in batches),
    }  # fmt: skip


def memory(weights: str, size: int, batch: int, low: bool, device: str) -> Numbers:
    """Peak bytes of a few ticks, in a process of its own, beside what the network itself takes.

    None where the memory was too small.
    """
    arguments = ", ".join(map(repr, (weights, size, batch, low, device)))
    call = f"from jobs.bench.style import peak; peak({arguments})"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)  # noqa: S603
    too_small = done.returncode < 0 or "OutOfMemoryError" in done.stderr
    if done.returncode and not too_small:
        raise RuntimeError(done.stderr)
    peak_bytes = None if too_small else int(done.stdout)
    return {
        "weights": weights, "size": size, "batch": batch, "memory": "low" if low else "normal",
        "device": device, "peak_bytes": peak_bytes,
        "bytes_per_image": peak_bytes and peak_bytes // batch,
    }  # fmt: skip


def peak(weights: str, size: int, batch: int, low: bool, device: str) -> None:
    """Print the peak bytes of three ticks: of the device, or of this process on a CPU."""
    keep_freed_memory()
    network, settings = ready(weights, device, tolerance=0)
    network(torch.zeros(1, 3, 64, 64, device=device), [settings.deepest_layer])
    before = restart_peak(device)
    images = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    target = style_target(network, images[:, :256, :256], settings)
    recorder = recorder_of(network.device)
    lane = Lane(network, (size, size), batch, settings, low_memory=low, recorder=recorder)
    weights = loss_weights(network, images, target, settings)
    for slot in range(batch):
        lane.enter(slot, Start(images, images, target, weights, 10**9))
    for _ in range(3):
        lane.tick()
    print(used(device) - before)


def restart_peak(device: str) -> int:
    """Bytes in use now; ``used`` then gives the peak since."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if PEAK_RESET.exists():
        PEAK_RESET.write_text("5")  # see proc(5)
    return used(device)


def used(device: str) -> int:
    """The most bytes in use: of the device, or of this process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = PEAK_RESET.with_name("status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
