"""Make the pictures of README.md and docs/ again, with this program and its defaults.

    python -m jobs.pictures                      (those made with the weights in this package)
    python -m jobs.pictures --vgg vgg16.pth      (all; a trained VGG-19 or VGG-16, or 'imagenet')

Each picture carries as EXIF the version, the settings and the weights that made it, and the loss
of a small probe. A test compares them with the program's. Run this command when it fails.
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
from jobs._painter import Painter
from jobs.demo import grid, pair_id
from pipeline.settings import StyleSettings
from pipeline.style.network.weights import WeightsError

DOCS = Path(__file__).parents[1] / "docs"

PROBE = StyleSettings(weights="random", iterations=12, tolerance=0)
"""Settings of the probe: random weights, so that a new compact network does not change it."""

PROBE_SIZE = 96
"""Edge of the probe's pictures in pixels."""


def probe() -> float:
    """Return the loss that this program reaches with a small pair in a few evaluations.

    It shows changes of the optimiser, which settings do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        contents, styles = save_inputs(Path(folder))
        content, style = (read_square(paths[0], PROBE_SIZE) for paths in (contents, styles))
    _, history = Painter(PROBE).paint(content, style)
    return history.total_loss


def painter_of(weights: str, size: int) -> Painter:
    """Return what paints squares of ``size`` pixels with these weights and default settings.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    return Painter(StyleSettings(weights=weights, image_size=size))


def painted(painter: Painter, content: Path, style: Path) -> Image.Image:
    """Return the content image in the style, both cut to squares."""
    content_image, style_image = (
        read_square(path, painter.settings.image_size) for path in (content, style)
    )
    image, _ = painter.paint(content_image, style_image)
    return to_image(image)


def described(painter: Painter) -> dict[str, Any]:
    """Return what a picture carries about its painter."""
    changed = {
        name: value
        for name, value in asdict(painter.settings).items()
        if value != getattr(StyleSettings(), name) and name != "weights"
    }
    return {
        "weights": Path(painter.settings.weights).name,
        "digest": painter.digest,
        "settings": changed,
        "fingerprint": painter.fingerprint,
    }


def software() -> str:
    """Return the program's name and version."""
    return f"neural-style-pipeline {metadata.version('neural-style-pipeline')}"


def origin(painters: Sequence[Painter]) -> dict[str, Any]:
    """Return how a picture was made, to be written into it."""
    return {
        "software": software(),
        "command": "python -m jobs.pictures",
        "painters": [described(painter) for painter in painters],
        "probe": probe(),
    }


def all_pairs(
    painter: Painter, contents: Sequence[Path], styles: Sequence[Path], told: str
) -> _sheet.Sheet:
    """Paint each content in each style."""
    made: Mapping[str, Image.Image] = {
        pair_id(content, style): painted(painter, content, style)
        for content in tqdm(contents, desc=told.partition("\n")[0])
        for style in styles
    }
    return grid(contents, styles, made, told)


def demo(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """Paint all pairs of the demo with the weights in this package."""
    painter = painter_of("compact", 256)
    told = "Four photographs,\nthree paintings made\nby code; weights\ncompact, 256 px"
    page = all_pairs(painter, contents, styles, told)
    _sheet.save(_sheet.draw(page, 256), DOCS / "demo.jpg", origin([painter]))


def imagenet(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """Paint two photographs in each style with a trained VGG, large."""
    painter = painter_of(options.vgg, 512)
    page = all_pairs(painter, contents[:2], styles, f"Weights of\n{options.name},\n512 px")
    _sheet.save(_sheet.draw(page, 384), DOCS / "imagenet.jpg", origin([painter]))


def weights(options: argparse.Namespace, contents: Sequence[Path], styles: Sequence[Path]) -> None:
    """Paint two pairs, each with every set of weights."""
    painters = [painter_of(name, 256) for name in ("random", "compact", options.vgg)]
    rows: list[list[_sheet.Cell]] = [
        [
            (Image.open(content), content.stem),
            (Image.open(style), style.stem),
            *((painted(painter, content, style), "") for painter in painters),
        ]
        for content, style in zip(contents[1:3], styles[:2], strict=True)
    ]
    page = _sheet.Sheet(("content image", "style image", "random", "compact", options.name), rows)
    _sheet.save(_sheet.draw(page, 256), DOCS / "weights.jpg", origin(painters))


ALL = {"demo": demo, "imagenet": imagenet, "weights": weights}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vgg", help="weights of a trained VGG-19 or VGG-16, or 'imagenet'")
    parser.add_argument(
        "--name", default="VGG-16", help="what captions call those weights [VGG-16]"
    )
    parser.add_argument("--only", nargs="+", choices=ALL, help="these pictures [all]")
    options = parser.parse_args(argv)
    chosen = options.only or (ALL if options.vgg else ["demo"])
    if options.vgg is None and set(chosen) != {"demo"}:
        parser.error(f"{', '.join(chosen)}: give --vgg, the weights of a trained VGG")
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
