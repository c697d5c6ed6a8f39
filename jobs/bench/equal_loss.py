"""Time to equal loss: this program against the loop that PyTorch's tutorial teaches.

Needs torch alone, no Ray.
"""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from torch import Tensor

from jobs.bench.alone import Numbers
from jobs.bench.inputs import pictures, ready, succeeded
from jobs.bench.plain import our_loss, plain_loop
from jobs.bench.style import Precision
from pipeline.settings import StyleSettings
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.method.balance import loss_weights
from pipeline.style.method.targets import style_target, style_targets
from pipeline.style.recipe import Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_optimizer import rounding_of
from pipeline.style.serving.phases import Done

SLOTS, TIMES = 8, 16
"""On a GPU: slots of the lane, and how often each pair comes."""

LONGEST_START = 600
"""Seconds after which actors that have not all started fail."""


@dataclass(frozen=True)
class PlainRun:
    """What the plain loop did with a pair.

    Attributes:
        losses: the loss of each evaluation.
        seconds: from the start to the end of each evaluation.
    """

    losses: list[float]
    seconds: list[float]


@dataclass(frozen=True)
class Reached:
    """How a pair reached its goal.

    Attributes:
        reached: whether it did.
        evaluations: evaluations until then.
        seconds: its share of the ticks that it was part of.
    """

    reached: bool
    evaluations: int
    seconds: float


Until = Callable[[StyleSettings, Sequence[float]], list[Reached]]
"""Optimises pairs, each until its loss has reached its goal. Pairs come again where there are more
goals."""


def against_the_plain_loop(
    weights: str,
    size: int,
    device: str,
    pairs: int,
    precisions: Sequence[Precision],
    evaluations: int = 300,
) -> Generator[Numbers, None, None]:
    """Measure our seconds to the losses that the plain loop reaches, against its own seconds.

    The plain loop takes every step, even one that raises the loss, and may end far above its lowest
    loss. So both its last and its lowest loss are goals. Ours has default settings except for one
    scale, the content image as start and no total variation, so that the losses are the same. It
    gives a pair up after twice as many evaluations. Losses count as evaluated in float32.

    The plain loop has the machine to itself, one pair after another. Ours uses it as a job does: on
    a CPU there is one actor for each core, with one thread and one pair at a time; on a GPU there
    is one actor of ``SLOTS`` slots that gets each pair ``TIMES`` times, to keep its slots full.

    Args:
        weights: see ``ready``.
        size: edge of the pictures in pixels.
        device: ``cpu`` or ``cuda``.
        pairs: content images; all have one style.
        precisions: precisions of ours; the plain loop's is float32.
        evaluations: evaluations of the plain loop.

    Yields:
        The figures for each goal and precision.
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
    """Return how many actors a job would have."""
    return 1 if device == "cuda" else os.cpu_count() or 1


@contextlib.contextmanager
def actors(weights: str, size: int, device: str, pairs: int) -> Iterator[Until]:
    """Start what takes pairs as the actors of a job do.

    On a CPU these are processes of one thread, one for each core; on a GPU it is this process.
    """
    if device == "cuda":
        _begin(weights, size, device, pairs, SLOTS)
        yield lambda settings, goals: _until(settings, list(enumerate(goals)), SLOTS)
        return
    context, count = multiprocessing.get_context("spawn"), actors_of(device)
    begun = context.Barrier(count + 1)
    with context.Pool(count, _begin, (weights, size, device, pairs, 1, begun)) as pool:
        begun.wait(LONGEST_START)

        def until(settings: StyleSettings, goals: Sequence[float]) -> list[Reached]:
            work = [(settings, [one], 1) for one in enumerate(goals)]
            return [found for (found,) in pool.starmap(_until, work, chunksize=1)]

        yield until


_own: dict[str, Any] = {}
"""What an actor keeps: ``network``, ``batchers``, ``contents`` and the style's ``targets``."""


def _begin(
    weights: str, size: int, device: str, pairs: int, slots: int, begun: Barrier | None = None
) -> None:
    """Make this process an actor and load its libraries."""
    keep_freed_memory()
    if device == "cpu":
        torch.set_num_threads(1)
    # The same tolerance as in the measurement: else lanes and graphs would be made during it.
    network, settings = ready(weights, device, tolerance=0, iterations=20, scales=1)
    style, *contents = pictures(pairs + 1, (size, size)).to(device)
    targets = style_targets(network, style, (size, size), settings)
    _own.update(network=network, contents=contents, targets=targets, batchers={})
    for kind in ("float32", "mixed"):
        _until(replace(settings, precision=kind), [(n, 0.0) for n in range(slots)], slots)
    if begun is not None:
        begun.wait(LONGEST_START)


def _until(
    settings: StyleSettings, goals: Sequence[tuple[int, float]], slots: int
) -> list[Reached]:
    """Optimise pairs, given by number and goal, each until its loss has reached its goal."""
    network, contents, targets = _own["network"], _own["contents"], _own["targets"]
    batcher = _own["batchers"].setdefault(slots, Batcher(network, slots))
    for number, _ in goals:
        batcher.submit(number, Problem(contents[number % len(contents)], targets, settings))
    goal_of: dict[Hashable, float] = dict(goals)
    done: dict[Hashable, Done] = {}
    while len(batcher):
        done.update(succeeded(batcher.tick()))
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
