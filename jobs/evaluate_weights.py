"""Judge sets of weights by a teacher: how far does an image stylised with them lower its loss?

    python -m jobs.evaluate_weights --weights random --weights compact --teacher vgg19.pth \\
        --pair bridge.jpg scream.jpg --picture side_by_side.png

Prints two Markdown tables. The first: for each pair and teacher the loss of the content image and
of the image that each set of weights makes of it, after equally many evaluations. The second: the
time of an evaluation against VGG-19 at full width, measured in turns in one run. The picture has a
row per pair: content, style, then a result per set of weights.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.settings import LAYERS, StyleSettings, replace
from pipeline.style.balance import loss_weights
from pipeline.style.distillation import PADDINGS, read_teacher
from pipeline.style.objective import Objective
from pipeline.style.optimize import stylize
from pipeline.style.targets import style_target
from pipeline.style.vgg import VGG
from pipeline.style.weights import WeightsError, load_network, normalise

Judge = tuple[VGG, StyleSettings]
"""A teacher's network, normalised, and the settings of a loss over the layers that it has."""


def read_image(path: Path, size: int) -> Tensor:
    """The middle square of a picture as (3, size, size), RGB in [0, 1]."""
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def candidate(source: str, settings: StyleSettings) -> StyleSettings:
    """The settings of ``NAME[:PADDING]``."""
    name, _, padding = source.rpartition(":")
    if padding in PADDINGS:
        return replace(settings, weights=name, padding=padding)
    return replace(settings, weights=source)


def load_judge(source: str, settings: StyleSettings) -> Judge:
    """The teacher's network, with the layers of ``settings`` as far up as it goes.

    A teacher that ends below the content layer judges the content by its last layer.
    """
    state, deepest, padding = read_teacher(source)
    known = LAYERS[: LAYERS.index(deepest) + 1]
    style = tuple(layer for layer in settings.style_layers if layer in known)
    content = tuple(layer for layer in settings.content_layers if layer in known) or (deepest,)
    state = normalise(state, deepest, "avg", padding)
    network = VGG(state, deepest_layer=deepest, padding=padding)
    return network, replace(settings, style_layers=style, content_layers=content)


def objective(network: VGG, settings: StyleSettings, content: Tensor, style: Tensor) -> Objective:
    """The loss of one pair of images (3, H, W)."""
    made = Objective(network, 1, settings)
    target = style_target(network, style, settings)
    made.put(0, content, target, loss_weights(network, content, target, settings))
    return made


@torch.no_grad()
def judged(judge: Judge, content: Tensor, style: Tensor, images: Sequence[Tensor]) -> list[str]:
    """Per image, the judge's ``content + style`` loss as a share of the content image's loss."""
    network, settings = judge
    loss = objective(network, settings, content, style)
    rows = []
    for image in images:
        terms = loss.terms(0, image)
        rows.append((terms.content, terms.style))
    whole = sum(rows[0])
    return [f"{(c + s) / whole:.3f} ({c / whole:.3f} + {s / whole:.3f})" for c, s in rows]


def seconds(candidates: Sequence[StyleSettings], size: int, rounds: int) -> list[float]:
    """Median seconds of a loss and its gradient for each candidate, measured in turns."""
    content, style = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    losses = [objective(load_network(each), each, content, style) for each in candidates]
    times: list[list[float]] = [[] for _ in losses]
    for turn in range(rounds + 1):
        for loss, taken in zip(losses, times, strict=True):
            start = time.perf_counter()
            loss(content[None])
            if turn:  # the first turn warms up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.evaluate_weights",
        description="Judge sets of weights by a teacher's loss, by time and by eye.",
    )
    parser.add_argument(
        "--weights",
        action="append",
        required=True,
        metavar="NAME[:PADDING]",
        help="weights to judge: any value of the setting 'weights'; may be given several times",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        default=[],
        metavar="FILE[:PADDING]",
        help="weights to judge by, or 'imagenet'; may be given several times",
    )
    parser.add_argument(
        "--pair",
        action="append",
        nargs=2,
        type=Path,
        default=[],
        metavar=("CONTENT", "STYLE"),
        help="two pictures; may be given several times",
    )
    parser.add_argument("--size", type=int, default=256, help="edge of the squares, in pixels")
    parser.add_argument("--evaluations", type=int, default=100, help="of loss and gradient, each")
    parser.add_argument("--rounds", type=int, default=20, help="timed evaluations of each set")
    parser.add_argument("--picture", type=Path, required=True, help="where the .png goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    settings = StyleSettings(iterations=args.evaluations, scales=1, tolerance=0)
    candidates = [candidate(source, settings) for source in args.weights]
    try:
        networks = [load_network(each) for each in candidates]
        judges = [load_judge(source, settings) for source in args.teacher]
    except WeightsError as error:
        print(f"evaluate_weights: {error}", file=sys.stderr)
        return 2
    rows, strips = [], []
    for content_path, style_path in args.pair:
        content, style = (read_image(path, args.size) for path in (content_path, style_path))
        images = [content]
        for network, each in zip(networks, candidates, strict=True):
            images.append(stylize(content[None], [style], each, network=network)[0][0])
        strips.append(torch.cat([content, style, *images[1:]], dim=2))
        for source, judge in zip(args.teacher, judges, strict=True):
            found = judged(judge, content, style, images)
            rows.append([content_path.stem, style_path.stem, Path(source).name, *found])
    if strips:
        print(table(["content", "style", "teacher", "content image", *args.weights], rows), "\n")
        pixels = (torch.cat(strips, dim=1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(args.picture)

    full = replace(settings, weights="random")
    *own, base = seconds([*candidates, full], args.size, args.rounds)
    timed = [
        [source, f"{taken:.3f}", f"{base / taken:.1f}"]
        for source, taken in zip(args.weights, own, strict=True)
    ]
    print(table(["weights", f"s per evaluation, {args.size} px", "times faster"], timed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
