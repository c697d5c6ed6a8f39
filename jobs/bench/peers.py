"""The defaults against the field's plain loop, each with its own loss, judged by a trained VGG.

What counts is the picture: the seconds until a trained VGG finds as little of the style missing as
in the plain loop's picture after 100 and 300 evaluations. The judge's time is not counted.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jobs._judge import judged, load_judge
from jobs.bench.plain import plain_loop, tutorial_loss
from jobs.quality import pairs_of
from pipeline.settings import StyleSettings
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import Pair
from pipeline.style.serving.batching import Batcher

AT = (100, 300)
"""Evaluations of the plain loop after which its picture is judged."""

Shares = list[tuple[float, float]]
"""Seconds and the judge's share, as they come."""


def against_the_peers(
    source: str, size: int, device: str, pairs: int, folder: Path | None
) -> Iterator[dict[str, Any]]:
    """A measurement for each pair: both loops have the machine to themselves, in turns.

    Args:
        source: weights of a trained VGG, which paint and judge.
        folder: of ``content_*`` and ``style_*`` pictures; the demo's if None.
    """
    judge = load_judge(source)
    judge.network.to(device)
    settings = StyleSettings(weights=source)
    network = load_network(settings).to(device)
    for name, content, style in pairs_of(folder, size)[:pairs]:
        content, style = content.to(device), style.to(device)

        def share(image: torch.Tensor, content: Any = content, style: Any = style) -> float:
            return judged(judge, content, style, [image.clamp(0, 1)])[0].share

        goals: dict[int, float] = {}

        def seen(count: int, image: torch.Tensor, goals: dict[int, float] = goals) -> None:
            if count in AT:
                goals[count] = share(image)

        _, seconds = plain_loop(
            judge.network, content, style, settings, max(AT), tutorial_loss(settings), seen
        )
        ours = _our_way(network, content, style, settings, share)
        figures: dict[str, Any] = {"pair": name, "size": size, "device": device}
        for count, goal in goals.items():
            reached = next((at for at in enumerate(ours, 1) if at[1][1] <= goal), None)
            figures |= {
                f"plain_seconds_{count}": seconds[count - 1],
                f"plain_share_{count}": goal,
                f"our_evaluations_{count}": reached and reached[0],
                f"our_seconds_{count}": reached and reached[1][0],
                f"ratio_{count}": reached and seconds[count - 1] / reached[1][0],
            }
        yield figures | {"our_seconds": ours[-1][0], "our_share": ours[-1][1]}


def _our_way(network: Any, content: Any, style: Any, settings: StyleSettings, share: Any) -> Shares:
    """Seconds and share after each evaluation of a run by default; targets and start included."""
    pair = Pair(content, [style], settings)
    batcher = Batcher(network, 1)
    found: Shares = []
    started = time.perf_counter()
    batcher.submit("pair", pair)
    while len(batcher):
        answers = batcher.tick()
        now = time.perf_counter()
        image = answered(answers) if answers else next((on[3] for on in batcher.under_way()), None)
        whole = image is not None and tuple(image.shape[1:]) == pair.size
        found.append((now - started, share(image) if whole else float("inf")))
        started += time.perf_counter() - now
    return found


def answered(answers: list[Any]) -> torch.Tensor:
    """The image of the only pair. Its failure is raised."""
    ((_, answer),) = answers
    if isinstance(answer, Exception):
        raise answer
    image: torch.Tensor = answer.image
    return image
