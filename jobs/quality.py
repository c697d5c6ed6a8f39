"""Judge the pictures that these settings make, and compare them with what is recorded.

    python -m jobs.quality --judge imagenet
    python -m jobs.quality --judge vgg16.pth --weights compact --iterations 30 --sheet sheet.png
    python -m jobs.quality --judge vgg16.pth --pictures FOLDER    (content_*.jpg and style_*.jpg)

The judge is a trained VGG-19 or VGG-16. Its share is E_l(picture) / E_l(content image), the mean
over the five style layers: 1 is the photograph, 0 has the style's statistics. Use it to judge every
change of the optimiser, its start, scales, precision or network, at equal cost. Settings that
change pixels are options, as of jobs.stylize. Exit code: 0; 1 if the mean share of a set of weights
is more than a tenth above the recorded one; 2 if nothing could be judged.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jobs._cli import read_options
from jobs._demo_pictures import paintings, photographs
from jobs._judge import Judge, Verdict, judged, load_judge, read_square, to_image
from jobs._painter import Painter
from pipeline.settings import SettingError, StyleSettings, replace
from pipeline.style.network.weights import WeightsError

RECORD = Path(__file__).parents[1] / "docs" / "quality.json"
"""The recorded figures."""

WORSE = 1.1
"""Ratio to the recorded mean share above which the exit code is 1."""

Figures = dict[str, dict[str, Any]]
"""Figures of each pair, by its name."""

Pair = tuple[str, Tensor, Tensor]
"""Name, content image and style image, both (3, size, size) in [0, 1]."""


def pairs_of(folder: Path | None, size: int) -> list[Pair]:
    """Return the pairs of a folder, or of the demo if it is None.

    Raises:
        SettingError: the folder has no pairs.
    """
    return folder_pairs(folder, size) if folder else development_pairs(size)


def development_pairs(size: int) -> list[Pair]:
    """Return each photograph of the demo with each of its paintings."""
    contents = {name: read_square(path, size) for name, path in photographs().items()}
    styles = {name: read_square(image, size) for name, image in paintings().items()}
    return _all_pairs(contents, styles)


def folder_pairs(folder: Path, size: int) -> list[Pair]:
    """Return each ``content_*`` picture of a folder with each ``style_*`` picture.

    Raises:
        SettingError: the folder has no pairs.
    """
    found = [
        {
            path.stem.removeprefix(kind): read_square(path, size)
            for path in sorted(folder.glob(f"{kind}*"))
            if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        }
        for kind in ("content_", "style_")
    ]
    if not all(found):
        raise SettingError(f"pictures: {folder} has no content_*.jpg or no style_*.jpg; add some")
    return _all_pairs(*found)


def _all_pairs(contents: dict[str, Tensor], styles: dict[str, Tensor]) -> list[Pair]:
    """Return all pairs, ordered so that the first few have different pictures."""
    named = [
        (f"{c}-{s}", contents[c], styles[s], (j - i) % len(styles))
        for i, c in enumerate(contents)
        for j, s in enumerate(styles)
    ]
    return [pair[:3] for pair in sorted(named, key=lambda pair: pair[3])]


def judge_weights(
    painter: Painter, judge: Judge, pairs: Sequence[Pair]
) -> tuple[Figures, list[Tensor]]:
    """Paint all pairs. Returns their figures and the pictures (3, size, size) in [0, 1]."""
    figures: Figures = {}
    pictures = []
    for name, content, style in pairs:
        started = time.perf_counter()
        picture, history = painter.paint(content, style)
        seconds = time.perf_counter() - started
        (verdict,) = judged(judge, content, style, [picture])
        pictures.append(picture)
        figures[name] = _figures(verdict) | {
            "evaluations": history.evaluations,
            "seconds": round(seconds, 1),
        }
    return figures, pictures


def _figures(verdict: Verdict) -> dict[str, Any]:
    layers = {layer: round(value, 4) for layer, value in verdict.layers.items()}
    return {
        "share": round(verdict.share, 4),
        "layers": layers,
        "content": round(verdict.content, 3),
        "specks": round(verdict.specks, 3),
    }


def mean(figures: Figures, name: str) -> float:
    """Return the mean of one figure over the pairs."""
    return sum(float(pair[name]) for pair in figures.values()) / len(figures)


def table(figures: Figures, known: Figures) -> str:
    """Return a line for each pair and one for their mean, next to the ``known`` figures."""
    layers = list(next(iter(figures.values()))["layers"])
    names = ("share", "content", "specks", "evaluations", "seconds")
    by_layer = {name: pair["layers"] for name, pair in figures.items()}
    whole: dict[str, Any] = {name: mean(figures, name) for name in names}
    whole["layers"] = {layer: mean(by_layer, layer) for layer in layers}
    both = {name: known[name] for name in figures if name in known}
    before = {name: pair["share"] for name, pair in both.items()}
    if both:
        before["mean"] = mean(both, "share")
    width = max(len(name) for name in [*figures, "mean"])
    lines = [f"{'':{width}}  share  was     {'  '.join(layers)}  content  specks  evals  seconds"]
    for name, pair in {**figures, "mean": whole}.items():
        was = f"{before[name]:.3f}" if name in before else "  -  "
        shares = "  ".join(f"{pair['layers'][layer]:7.3f}" for layer in layers)
        lines.append(
            f"{name:{width}}  {pair['share']:.3f}  {was}   {shares}  {pair['content']:7.2f}"
            f"  {pair['specks']:6.2f}  {pair['evaluations']:5.0f}  {pair['seconds']:7.1f}"
        )
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> tuple[StyleSettings, dict[str, Any]]:
    """Return the settings of all pictures, and the other options.

    Raises:
        SettingError: a setting is unknown or out of range.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jobs.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--judge", default="imagenet", help="weights of the judge [imagenet]")
    parser.add_argument(
        "--weights",
        action="append",
        help="weights that paint; may be given several times [judge's, compact]",
    )
    parser.add_argument("--pictures", type=Path, help="folder of content_*.jpg and style_*.jpg")
    parser.add_argument("--pairs", type=int, help="number of pairs [all]")
    parser.add_argument(
        "--size", type=int, default=256, help="edge of the pictures in pixels [256]"
    )
    parser.add_argument(
        "--sheet", type=Path, help="file for a sheet of all pictures: content, style, results"
    )
    parser.add_argument(
        "--record", action="store_true", help=f"record the figures in docs/{RECORD.name}"
    )
    names = {spec.name for spec in fields(StyleSettings)} - {"weights", "image_size"}
    (style,), own = read_options(argv, parser, {StyleSettings: None}, names)
    return StyleSettings(**style), own


def main(argv: Sequence[str] | None = None) -> int:
    """Judge, print and compare. Returns the exit code."""
    try:
        base, own = parse(argv)
        folder, size = own["pictures"], own["size"]
        pairs = pairs_of(folder, size)[: own["pairs"]]
        judge = load_judge(own["judge"])
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        columns, worse, shares = [], False, {}
        for source in own["weights"] or [own["judge"], "compact"]:
            print(f"{source}, {size} px, judged by {own['judge']}", flush=True)
            painter = Painter(replace(base, weights=source, image_size=size))
            figures, pictures = judge_weights(painter, judge, pairs)
            key = f"{Path(source).name} {folder.name if folder else 'demo'} {size}"
            recorded = known.get(key, {}) if known.get(key, {}).get("judge") == judge.digest else {}
            before = recorded.get("pairs", {})
            print(table(figures, before), "\n", flush=True)
            shares[source] = mean(figures, "share")
            both = {name: before[name] for name in figures if name in before}
            if both:
                now = mean({name: figures[name] for name in both}, "share")
                worse |= now > WORSE * mean(both, "share")
            known[key] = {
                "judge": judge.digest,
                "weights": painter.digest,
                "fingerprint": painter.fingerprint,
                "pairs": figures,
            }
            columns.append(pictures)
    except (SettingError, WeightsError, OSError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    if own["judge"] in shares:
        for source, share in shares.items():
            if source != own["judge"]:
                ratio = share / shares[own["judge"]]
                print(f"{source}: {ratio:.1f} times the share of the judge's own pictures")
    if own["sheet"]:
        rows = [
            torch.cat([content, style, *(column[index] for column in columns)], dim=2)
            for index, (_, content, style) in enumerate(pairs)
        ]
        to_image(torch.cat(rows, dim=1)).save(own["sheet"])
    if own["record"]:
        RECORD.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        return 0
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
