"""The defaults against the field's plain loop, each with its own loss, judged by a trained VGG.

The picture counts: the seconds until a trained VGG finds as little of the style missing as in the
plain loop's picture after 100 and 300 evaluations. The judge's time does not count.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from jobs._judge import Judge, judged, load_judge
from jobs.bench.alone import Numbers
from jobs.bench.inputs import succeeded
from jobs.bench.plain import plain_loop, tutorial_loss
from jobs.quality import Pair, pairs_of
from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import load_network
from pipeline.style.serving.batching import Batcher

AT = (100, 300)
"""Evaluations of the plain loop after which its picture is judged."""


def against_the_peers(
    source: str, size: int, device: str, pairs: int, folder: Path | None
) -> Iterator[Numbers]:
    """Measure both loops with each pair. They take turns and have the machine to themselves.

    Args:
        source: weights of a trained VGG, which paint and judge.
        size: edge of the pictures in pixels.
        device: ``cpu`` or ``cuda``.
        pairs: most pairs.
        folder: folder of ``content_*`` and ``style_*`` pictures; the demo's pictures if None.

    Yields:
        The figures of each pair.

    Raises:
        WeightsError: the weights cannot be loaded.
        SettingError: the folder has no pictures.
    """
    judge = load_judge(source)
    judge.network.to(device)
    network = load_network(StyleSettings(weights=source)).to(device)
    for name, content, style in pairs_of(folder, size)[:pairs]:
        figures = {"pair": name, "size": size, "device": device}
        pair = name, content.to(device), style.to(device)
        yield figures | _compared(judge, network, pair, StyleSettings(weights=source))


def _compared(judge: Judge, network: VGG, pair: Pair, settings: StyleSettings) -> Numbers:
    _, content, style = pair
    goals: dict[int, float] = {}

    def share(image: Tensor) -> float:
        return judged(judge, content, style, [image.clamp(0, 1)])[0].share

    def seen(count: int, image: Tensor) -> None:
        if count in AT:
            goals[count] = share(image)

    _, seconds = plain_loop(
        judge.network, content, style, settings, max(AT), tutorial_loss(settings), seen
    )
    ours = _our_way(network, recipe.Pair(content, [style], settings), share)
    figures: Numbers = {}
    for count, goal in goals.items():
        reached = next((n for n, (_, left) in enumerate(ours, 1) if left <= goal), None)
        our_seconds = reached and ours[reached - 1][0]
        figures |= {
            f"plain_seconds_{count}": seconds[count - 1],
            f"plain_share_{count}": goal,
            f"our_evaluations_{count}": reached,
            f"our_seconds_{count}": our_seconds,
            f"ratio_{count}": our_seconds and seconds[count - 1] / our_seconds,
        }
    return figures | {"our_seconds": ours[-1][0], "our_share": ours[-1][1]}


def _our_way(
    network: VGG, pair: recipe.Pair, share: Callable[[Tensor], float]
) -> list[tuple[float, float]]:
    """Run a pair and return the seconds and the judge's share after each evaluation.

    Targets and start are part of the time. The share is infinite at the coarse scale.
    """
    batcher = Batcher(network, 1)
    found: list[tuple[float, float]] = []
    started = time.perf_counter()
    batcher.submit("pair", pair)
    while len(batcher):
        finished = [done.image for _, done in succeeded(batcher.tick())]
        now = time.perf_counter()
        images = finished or [image for *_, image in batcher.under_way()]
        whole = [image for image in images if tuple(image.shape[1:]) == pair.size]
        found.append((now - started, share(whole[0]) if whole else math.inf))
        started += time.perf_counter() - now
    return found
