"""The method against the loop that PyTorch's tutorial teaches. Needs torch alone, no Ray."""

import contextlib
import copy
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import Tensor

from jobs.bench.style import Numbers, pictures, ready
from pipeline.settings import StyleSettings
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.method import losses
from pipeline.style.method.balance import LossWeights, loss_weights
from pipeline.style.method.targets import style_target, style_targets
from pipeline.style.network.vgg import VGG
from pipeline.style.recipe import Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lanes import rounding_of
from pipeline.style.serving.phases import Done

SLOTS, TIMES = 8, 16
"""On a GPU: pairs side by side, and how often each pair comes."""


Activations = dict[str, Tensor]
"""Layer to F^l (1, N_l, H_l, W_l)."""

PlainLoss = Callable[[Activations, Activations, Activations], Tensor]
"""The loss of an image's activations, the content image's and the style image's."""


def our_loss(weights: LossWeights, settings: StyleSettings) -> PlainLoss:
    """The loss that the product lowers, without its total variation, for autograd.

    As large as the tutorial's, 1e6 times: torch's L-BFGS stops at absolute tolerances.
    """

    def loss(F_l: Activations, P: Activations, S: Activations) -> Tensor:
        content = [losses.content_loss(F_l[k], P[k]).sum() for k in settings.content_layers]
        E = {}
        for k in weights.w:
            A = losses.gram_matrix(S[k]) * (F_l[k][0, 0].numel() / S[k][0, 0].numel())
            E[k] = losses.layer_style_loss(F_l[k], A).sum()
        L_content, L_style = torch.stack(content).sum(), losses.style_loss(E, weights.w)
        return 1e6 * losses.total_loss(L_content, L_style, weights.alpha, weights.beta)

    return loss


def tutorial_loss(settings: StyleSettings) -> PlainLoss:
    """The loss of PyTorch's tutorial: Gram matrices over N M, mean squares, weights 1 and 1e6."""
    mse = torch.nn.functional.mse_loss

    def loss(F_l: Activations, P: Activations, S: Activations) -> Tensor:
        def gram(F: Tensor) -> Tensor:
            return losses.gram_matrix(F) / F[0].numel()

        content = [mse(F_l[k], P[k]) for k in settings.content_layers]
        style = [mse(gram(F_l[k]), gram(S[k])) for k in settings.style_layers]
        return torch.stack(content).sum() + 1e6 * torch.stack(style).sum()

    return loss


def plain_loop(
    network: VGG,
    content: Tensor,
    style: Tensor,
    settings: StyleSettings,
    evaluations: int,
    loss_of: PlainLoss,
    seen: Callable[[int, Tensor], None] = lambda count, image: None,
) -> tuple[list[float], list[float]]:
    """The loop that PyTorch's tutorial teaches: one image, autograd, ``torch.optim.LBFGS``.

    In PyTorch's default memory format, the ReLU not in place. The image is clamped before each
    evaluation. Returns the loss of each, and the seconds since the start.

    Args:
        seen: called after each evaluation with their count and the image; its time does not count.
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

    with torch.no_grad():
        P, S = activations(content[None]), activations(style[None])
    image = content[None].clone(memory_format=torch.contiguous_format).requires_grad_(True)
    optimizer = torch.optim.LBFGS([image])
    trace: list[float] = []
    seconds: list[float] = []

    def closure() -> float:
        nonlocal started
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = loss_of(activations(image), P, S)
        loss.backward()  # type: ignore[no-untyped-call]
        trace.append(float(loss.detach()))
        now = time.perf_counter()
        seconds.append(now - started)
        seen(len(trace), image.detach()[0])
        started += time.perf_counter() - now
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


@dataclass(frozen=True)
class Reached:
    """Whether a pair reached its goal, after how many evaluations, and its share of the ticks that
    it was part of, in seconds."""

    reached: bool
    evaluations: int
    seconds: float


Until = Callable[[StyleSettings, Sequence[float]], list[Reached]]
"""Optimises pairs until each one's loss is at its goal; where there are more goals than pairs, they
come again."""


def against_the_plain_loop(
    weights: str,
    size: int,
    device: str,
    pairs: int,
    precisions: Sequence[str],
    evaluations: int = 300,
) -> Generator[Numbers, None, None]:
    """Seconds to the losses that the plain loop has after so many evaluations: its own, and ours.

    The plain loop takes every step, also one that raises the loss, and may end far above the lowest
    loss that it had seen: time to that one is compared, too. Ours has its default settings but one
    scale, the content image as start and no total variation, so that the losses are the same, and
    gives a pair up after twice as many evaluations. The loss that counts is that in float32.

    The plain loop has the machine to itself, one pair after another. Ours has it as a job has: on
    a CPU an actor of one thread on each core, that take a pair each; on a GPU one actor of
    ``SLOTS`` slots that finds each of the pairs ``TIMES`` times, so that its slots are in use.

    Args:
        pairs: of one style and so many content images.
        precisions: that ours is run in; the plain loop's is float32.
    """
    network, base = ready(
        weights, device, tolerance=0, scales=1, iterations=2 * evaluations, init_image="content",
        tv_weight=0,
    )  # fmt: skip
    style, *contents = pictures(pairs + 1, (size, size)).to(device)
    target = style_target(network, style, base)

    def plain(content: Tensor, evaluations: int) -> PlainRun:
        loss = our_loss(loss_weights(network, content, target, base), base)
        trace, seconds = plain_loop(network, content, style, base, evaluations, loss)
        return PlainRun([value / 1e6 for value in trace], seconds)

    plain(contents[0], 5)  # loads the libraries
    runs = [plain(content, evaluations) for content in contents]
    times = TIMES if device == "cuda" else 1
    with actors(weights, size, device, pairs) as until:
        for name, at in (
            ("last", [evaluations - 1] * pairs),
            ("lowest", [run.losses.index(min(run.losses[:evaluations])) for run in runs]),
        ):
            goals = [run.losses[n] for run, n in zip(runs, at, strict=True)]
            loop_seconds = [run.seconds[n] for run, n in zip(runs, at, strict=True)]
            for precision in precisions:
                settings = replace(base, precision=precision)
                started = time.perf_counter()
                reached = until(settings, goals * times)
                seconds = (time.perf_counter() - started) / times
                each = [pair.seconds / actors_of(device) for pair in reached[:pairs]]
                yield {
                    "weights": weights, "size": size, "device": device,
                    "to the loss that is": name, "precision": precision,
                    "pairs": pairs, "times": times, "actors": actors_of(device),
                    "ratio": sum(loop_seconds) / seconds,
                    "plain_seconds": sum(loop_seconds), "our_seconds": seconds,
                    "plain_evaluations": [n + 1 for n in at],
                    "our_evaluations": [pair.evaluations for pair in reached[:pairs]],
                    "reached": all(pair.reached for pair in reached),
                    "ratio_of_each": [
                        loop / ours for loop, ours in zip(loop_seconds, each, strict=True)
                    ],
                }  # fmt: skip


def actors_of(device: str) -> int:
    """As many as a job would have."""
    return 1 if device == "cuda" else os.cpu_count() or 1


@contextlib.contextmanager
def actors(weights: str, size: int, device: str, pairs: int) -> Iterator[Until]:
    """What takes pairs as the actors of a job do: on a CPU processes of one thread each, as many as
    there are cores; on a GPU this process."""
    if device == "cuda":
        _begin(weights, size, device, pairs, SLOTS)
        yield lambda settings, goals: _until(settings, list(enumerate(goals)), SLOTS)
        return
    context, count = multiprocessing.get_context("spawn"), actors_of(device)
    begun = context.Barrier(count + 1)
    with context.Pool(count, _begin, (weights, size, device, pairs, 1, begun)) as pool:
        begun.wait(600)

        def until(settings: StyleSettings, goals: Sequence[float]) -> list[Reached]:
            work = [(settings, [one], 1) for one in enumerate(goals)]
            return [found for (found,) in pool.starmap(_until, work, chunksize=1)]

        yield until


_own: dict[str, Any] = {}
"""An actor's network, its batchers, the contents' pictures and the style's targets."""


def _begin(
    weights: str, size: int, device: str, pairs: int, slots: int, begun: Barrier | None = None
) -> None:
    """Make this process an actor and load its libraries."""
    keep_freed_memory()
    if device == "cpu":
        torch.set_num_threads(1)
    # The tolerance is that of what is measured: else lanes and graphs would be made within it.
    network, settings = ready(weights, device, tolerance=0, iterations=20, scales=1)
    style, *contents = pictures(pairs + 1, (size, size)).to(device)
    targets = style_targets(network, style, (size, size), settings)
    _own.update(network=network, contents=contents, targets=targets, batchers={})
    for kind in ("float32", "mixed"):
        _until(replace(settings, precision=kind), [(n, 0.0) for n in range(slots)], slots)
    if begun is not None:
        begun.wait(600)


def _until(
    settings: StyleSettings, goals: Sequence[tuple[int, float]], slots: int
) -> list[Reached]:
    """Optimise pairs, by number and goal, each until its loss is at its goal."""
    network, contents, targets = _own["network"], _own["contents"], _own["targets"]
    batcher = _own["batchers"].setdefault(slots, Batcher(network, slots))

    for number, _ in goals:
        batcher.submit(number, Problem(contents[number % len(contents)], targets, settings))
    goal_of: dict[Any, float] = dict(goals)
    done: dict[Any, Done] = {}
    while len(batcher):
        for who, answer in batcher.tick():
            if isinstance(answer, Exception):
                raise answer
            done[who] = answer
        for key, lane in batcher.pool.lanes.items():
            for slot, pair in batcher.running.get(key, {}).items():
                trace = lane.traces[slot]
                if trace and trace[-1] <= goal_of[pair.key]:
                    lane.most[slot] = len(trace) + 1
    return [
        Reached(
            reached=done[number].history.total_loss <= goal * (1 + rounding_of(network)),
            evaluations=done[number].history.evaluations,
            seconds=done[number].seconds,
        )
        for number, goal in goals
    ]
