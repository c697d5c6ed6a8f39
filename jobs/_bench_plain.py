"""The method against the loop that PyTorch's tutorial teaches. Needs torch alone, no Ray."""

import copy
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jobs._bench_style import Numbers, pictures
from pipeline.settings import StyleSettings
from pipeline.style import losses
from pipeline.style.batching import Batcher, Done, Pair, Request
from pipeline.style.targets import style_targets
from pipeline.style.vgg import VGG
from pipeline.style.weights import load_network


def plain_loop(
    network: VGG, content: Tensor, style: Tensor, settings: StyleSettings, evaluations: int
) -> tuple[list[float], list[float]]:
    """The loop that PyTorch's tutorial teaches: one image, autograd, ``torch.optim.LBFGS``.

    In PyTorch's default memory format, the ReLU not in place. The image is clamped before each
    evaluation. Returns the loss of each, and the seconds since the start.
    """
    features = copy.deepcopy(network.features).to(memory_format=torch.contiguous_format)
    mean, std = (network.get_buffer(name).to(content) for name in ("mean", "std"))

    def activations(x: Tensor) -> dict[str, Tensor]:
        x = (x - mean) / std
        found = {}
        names = iter(network.layers)
        for module in features:
            if isinstance(module, torch.nn.ReLU):
                x = found[next(names)] = torch.nn.functional.relu(x)
            else:
                x = module(x)
        return found

    seen, painted = activations(content[None]), activations(style[None])
    P = {k: seen[k] for k in settings.content_layers}
    A = {
        k: losses.gram_matrix(painted[k]) / painted[k][0, 0].numel() for k in settings.style_layers
    }
    image = content[None].clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([image])
    trace: list[float] = []
    seconds: list[float] = []

    def loss_of(x: Tensor) -> Tensor:
        F_l = activations(x)
        content_loss = sum(losses.content_loss(F_l[k], P[k]) for k in P)
        style_loss = sum(
            settings.w[k] * losses.style_loss(F_l[k], A[k] * F_l[k][0, 0].numel()) for k in A
        )
        loss = settings.content_weight * content_loss + settings.style_weight * style_loss
        return torch.as_tensor(loss).sum()

    def closure() -> float:
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = 1e6 * loss_of(image)  # as the tutorial: torch's L-BFGS stops at absolute tolerances
        loss.backward()  # type: ignore[no-untyped-call]
        trace.append(float(loss.detach()) / 1e6)
        seconds.append(time.perf_counter() - started)
        return float(loss.detach())

    started = time.perf_counter()
    while len(trace) < evaluations:
        optimizer.step(closure)
    return trace, seconds


@dataclass(frozen=True)
class PlainRun:
    """What the plain loop did with a pair: its losses, and the seconds until each."""

    losses: list[float]
    seconds: list[float]


def against_the_plain_loop(
    weights: str,
    size: int,
    device: str,
    pairs: int,
    slots: int,
    precisions: Sequence[str],
    evaluations: int = 300,
) -> Iterator[Numbers]:
    """Seconds to the losses that the plain loop has after so many evaluations: its own, and ours.

    The plain loop takes every step, also one that raises the loss, and may end far above the lowest
    loss that it had seen: time to that one is compared, too. Ours has its default settings but one
    scale, and gives a pair up after twice as many evaluations. The loss that counts is that in
    float32.

    Args:
        pairs: of one style and so many content images; the plain loop takes one after another.
        slots: pairs that ours takes side by side.
        precisions: that ours is run in; the plain loop's is float32.
    """
    base = StyleSettings(weights=weights, tolerance=0, scales=1, iterations=2 * evaluations)
    network = load_network(base).to(device)
    style, *contents = pictures(pairs + 1, (size, size)).to(device)
    runs = [
        PlainRun(*plain_loop(network, content, style, base, evaluations)) for content in contents
    ]
    for name, at in (
        ("last", [evaluations - 1] * pairs),
        ("lowest", [run.losses.index(min(run.losses[:evaluations])) for run in runs]),
    ):
        goals = [run.losses[n] for run, n in zip(runs, at, strict=True)]
        plain = [run.seconds[n] for run, n in zip(runs, at, strict=True)]
        for precision in precisions:
            settings = replace(base, precision=precision)
            found = _until(network, style, contents, settings, goals, slots)
            yield {
                "weights": weights, "size": size, "device": device, "to the loss that is": name,
                "precision": precision, "pairs": pairs, "slots": slots,
                "ratio": sum(plain) / found.seconds,
                "plain_seconds": sum(plain), "our_seconds": found.seconds,
                "plain_evaluations": [n + 1 for n in at], "our_evaluations": found.evaluations,
                "reached": found.reached,
                "ratio_of_each": [
                    loop / ours for loop, ours in zip(plain, found.each, strict=True)
                ],
            }  # fmt: skip


@dataclass(frozen=True)
class Reached:
    """Seconds until the last pair has left; of each pair whether it reached its goal, after how
    many evaluations, and its share of the ticks that it was part of, in seconds."""

    seconds: float
    reached: list[bool]
    evaluations: list[int]
    each: list[float]


def _until(
    network: VGG,
    style: Tensor,
    contents: Sequence[Tensor],
    settings: StyleSettings,
    goals: Sequence[float],
    slots: int,
) -> Reached:
    """Pairs of one size, each of which leaves as soon as its loss is at its goal."""
    size = (style.shape[1], style.shape[2])
    batcher = Batcher(network, slots)

    def pair(content: Tensor) -> Pair:
        return Pair(content, style_targets(network, style, size, settings), settings)

    started = time.perf_counter()
    for index, content in enumerate(contents):
        build = functools.partial(pair, content)
        batcher.submit(Request(index, size, settings, build))
    done: dict[Any, Done] = {}
    while len(batcher):
        for who, answer in batcher.tick():
            if isinstance(answer, Exception):
                raise answer
            done[who] = answer
        for key, lane in batcher.lanes.items():
            for slot, run in batcher.running.get(key, {}).items():
                trace = lane.traces[slot]
                pair_index: Any = run.request.key
                if trace and trace[-1] <= goals[pair_index]:
                    lane.most[slot] = len(trace) + 1
    order = range(len(contents))
    return Reached(
        seconds=time.perf_counter() - started,
        reached=[done[n].history.total_loss <= goals[n] for n in order],
        evaluations=[done[n].history.evaluations for n in order],
        each=[done[n].seconds for n in order],
    )
