"""Twelve pictures from start to end, by the same job code as on a cluster.

    python -m jobs.demo

Writes photographs and painted styles, a manifest of all their pairs, runs ``jobs.stylize`` on it
and makes a contact sheet. Nothing is downloaded. Further options go to ``jobs.stylize``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

from jobs import stylize
from jobs._demo_pictures import save_inputs

THUMBNAIL = 256
"""Edge of a picture on the contact sheet, px."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the job's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="demo-output", help="directory [default demo-output]")
    parser.add_argument(
        "--weights", default="compact", help="as of jobs.stylize [default compact: it is embedded]"
    )
    options, more = parser.parse_known_args(argv)
    output = Path(options.output)
    contents, styles = save_inputs(output / "inputs")
    manifest = write_manifest(output / "inputs" / "manifest.parquet", contents, styles)
    result = output / "result"
    print(
        f"demo: weights {options.weights!r}, not VGG-19's: a real job's default is 'imagenet'"
        if options.weights != "imagenet"
        else "demo: weights 'imagenet'"
    )
    code = stylize.main(
        [
            *("--manifest", str(manifest), "--output", str(result), "--weights", options.weights),
            *("--image-size", "256", "--iterations", "80", "--rows-per-block", "1"),
            *("--overwrite", *more),
        ]
    )
    if code == 2:
        return code
    sheet = contact_sheet(contents, styles, result / "images", output / "contact_sheet.png")
    print(f"images         {result / 'images'}")
    print(f"records        {result / 'records'}")
    print(f"contact sheet  {sheet}")
    return code


def pair_id(content: Path, style: Path) -> str:
    """The id, and so the file name, of a pair."""
    return f"{content.stem}-{style.stem}"


def write_manifest(path: Path, contents: Sequence[Path], styles: Sequence[Path]) -> Path:
    """A manifest of every content with every style; URIs relative to its folder."""
    rows = [
        {
            "pair_id": pair_id(content, style),
            "content_uri": str(content.relative_to(path.parent)),
            "style_uri": str(style.relative_to(path.parent)),
        }
        for content in contents
        for style in styles
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def contact_sheet(
    contents: Sequence[Path], styles: Sequence[Path], images: Path, target: Path
) -> Path:
    """Contents down, styles across, results where they meet; a cross where there is none."""
    sheet = Image.new(
        "RGB", (THUMBNAIL * (1 + len(styles)), THUMBNAIL * (1 + len(contents))), "white"
    )
    for column, style in enumerate(styles, 1):
        _place(sheet, style, column, 0)
    for line, content in enumerate(contents, 1):
        _place(sheet, content, 0, line)
        for column, style in enumerate(styles, 1):
            # With whatever ending --image-format has given it.
            found = next(images.glob(f"{pair_id(content, style)}.*"), None)
            _place(sheet, found, column, line)
    sheet.save(target)
    return target


def _place(sheet: Image.Image, path: Path | None, column: int, line: int) -> None:
    left, top = column * THUMBNAIL, line * THUMBNAIL
    if path is None:
        draw = ImageDraw.Draw(sheet)
        right, bottom = left + THUMBNAIL, top + THUMBNAIL
        draw.line((left, top, right, bottom), fill="red", width=3)
        draw.line((left, bottom, right, top), fill="red", width=3)
        return
    image = ImageOps.fit(Image.open(path).convert("RGB"), (THUMBNAIL, THUMBNAIL))
    sheet.paste(image, (left, top))


if __name__ == "__main__":
    sys.exit(main())
