"""Make the pictures of README.md and docs/ anew, from this program and its defaults.

    python -m jobs.pictures                      (those of the weights in this package)
    python -m jobs.pictures --vgg vgg16.pth      (all; a trained VGG-19 or VGG-16, or 'imagenet')

Each picture carries, as EXIF, the version, the settings and the weights that made it, and the loss
of a small probe. A test compares them with the program's: when it fails, run this.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from jobs import _sheet
from jobs._demo_pictures import save_inputs
from jobs._judge import read_square, to_image
from jobs.demo import grid, pair_id
from pipeline.settings import StyleSettings, fingerprint
from pipeline.style.network.weights import WeightsError, build_network, load_weights
from pipeline.style.optimize import stylize_batch

DOCS = Path(__file__).parents[1] / "docs"

PROBE = StyleSettings(weights="random", iterations=12, tolerance=0)
"""Random weights, so that another version of the compact network makes no other optimiser."""

PROBE_SIZE = 96
"""Edge of the probe's pictures, px."""


def probe() -> float:
    """The loss that this program reaches with a small pair in a few evaluations.

    Settings tell nothing of a change in the optimiser: this does.
    """
    with tempfile.TemporaryDirectory() as folder:
        contents, styles = save_inputs(Path(folder))
        content, style = (read_square(paths[0], PROBE_SIZE) for paths in (contents, styles))
    _, (history,) = stylize_batch(content[None], [style], PROBE)
    return history.total_loss


class Painter:
    """One set of weights at one size, and what it has to tell of its pictures."""

    def __init__(self, weights: str, size: int) -> None:
        self.settings = StyleSettings(weights=weights, image_size=size)
        state, self.digest = load_weights(self.settings)
        self.network = build_network(state, self.settings)

    def paint(self, content: Path, style: Path) -> Image.Image:
        """The content image in the style, both cut to squares."""
        size = self.settings.image_size
        (image,), _ = stylize_batch(
            read_square(content, size)[None],
            [read_square(style, size)],
            self.settings,
            network=self.network,
        )
        return to_image(image)

    def told(self) -> dict[str, Any]:
        changed = {
            name: value
            for name, value in asdict(self.settings).items()
            if value != getattr(StyleSettings(), name) and name != "weights"
        }
        return {
            "weights": Path(self.settings.weights).name,
            "digest": self.digest,
            "settings": changed,
            "fingerprint": fingerprint(self.settings, self.digest),
        }


def software() -> str:
    """The program's name and version."""
    return f"neural-style-pipeline {metadata.version('neural-style-pipeline')}"


def origin(painters: Sequence[Painter]) -> dict[str, Any]:
    """How a picture was made, to be written into it."""
    return {
        "software": software(),
        "command": "python -m jobs.pictures",
        "painters": [painter.told() for painter in painters],
        "probe": probe(),
    }


def all_pairs(
    painter: Painter, contents: Sequence[Path], styles: Sequence[Path], told: str
) -> _sheet.Sheet:
    """Each content in each style."""
    made: Mapping[str, Image.Image] = {
        pair_id(content, style): painter.paint(content, style)
        for content in tqdm(contents, desc=told.partition("\n")[0])
        for style in styles
    }
    return grid(contents, styles, made, told)


def demo(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """All pairs of the demo with the weights in this package."""
    painter = Painter("compact", 256)
    told = "Four photographs,\nthree paintings made\nby code; weights\ncompact, 256 px"
    page = all_pairs(painter, contents, styles, told)
    _sheet.save(_sheet.draw(page, 256), DOCS / "demo.jpg", origin([painter]))


def imagenet(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """Two photographs in each style with a trained VGG, large."""
    painter = Painter(options.vgg, 512)
    page = all_pairs(painter, contents[:2], styles, f"Weights of\n{options.name},\n512 px")
    _sheet.save(_sheet.draw(page, 384), DOCS / "imagenet.jpg", origin([painter]))


def weights(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """Two pairs, each with every set of weights."""
    painters = [Painter(name, 256) for name in ("random", "compact", options.vgg)]
    rows: list[list[tuple[Image.Image | str | None, str]]] = [
        [
            (Image.open(content), content.stem),
            (Image.open(style), style.stem),
            *((painter.paint(content, style), "") for painter in painters),
        ]
        for content, style in zip(contents[1:3], styles[:2], strict=True)
    ]
    page = _sheet.Sheet(("content image", "style image", "random", "compact", options.name), rows)
    _sheet.save(_sheet.draw(page, 256), DOCS / "weights.jpg", origin(painters))


ALL = {"demo": demo, "imagenet": imagenet, "weights": weights}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vgg", help="weights of a trained VGG-19 or VGG-16, or 'imagenet'")
    parser.add_argument("--name", default="VGG-16", help="what captions call them [VGG-16]")
    parser.add_argument("--only", nargs="+", choices=ALL, help="these pictures [all]")
    options = parser.parse_args(argv)
    chosen = options.only or (ALL if options.vgg else ["demo"])
    if options.vgg is None and set(chosen) != {"demo"}:
        parser.error(f"{', '.join(chosen)}: give --vgg, a trained VGG's weights")
    try:
        with tempfile.TemporaryDirectory() as folder:
            inputs = save_inputs(Path(folder))
            for name in chosen:
                ALL[name](options, *inputs)
    except WeightsError as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
