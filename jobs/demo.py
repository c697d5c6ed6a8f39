"""Twelve pictures from start to end, by the same job code as on a cluster.

    neural-style demo

Writes photographs and painted styles, a manifest of all their pairs, runs "neural-style stylize" on
it and makes a contact sheet. Nothing is downloaded. Further options go to that command.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs import _sheet, _terminal, stylize
from jobs._demo_pictures import save_inputs
from jobs._parser import command
from pipeline.engine.progress import Activity, Progress
from pipeline.redaction import redact

EDGE = 256
"""Edge of a picture, and of its place on the contact sheet, px."""

PAINTING = Activity("painting the demo's inputs", "painted the demo's inputs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns the job's exit code."""
    parser = argparse.ArgumentParser(
        prog=command("demo"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", default="demo-output", help="directory [default demo-output]")
    parser.add_argument(
        "--weights",
        default="compact",
        help="as of neural-style stylize [default compact: it is embedded]",
    )
    options, more = parser.parse_known_args(argv)
    output = Path(options.output)
    try:
        with _terminal.shown() as tell:
            tell(Progress(activity=PAINTING))
            contents, styles = save_inputs(output / "inputs")
        manifest = write_manifest(output / "inputs" / "manifest.parquet", contents, styles)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        print(f"error: output {redact(str(output))}: {why}; choose another", file=sys.stderr)
        return 2
    result = output / "result"
    weights = redact(options.weights)
    print(
        f"demo: weights {weights!r}, not VGG-19's: a real job's default is 'imagenet'"
        if options.weights != "imagenet"
        else "demo: weights 'imagenet'"
    )
    code = stylize.main(
        [
            *("--manifest", str(manifest), "--output", str(result), "--weights", options.weights),
            *("--image-size", str(EDGE), "--rows-per-block", "1", "--overwrite", *more),
        ]
    )
    if code not in (0, 1) or "--dry-run" in more:
        return code
    told = f"Weights: {Path(weights).stem}\n{EDGE} px\nmade by\nmake demo"
    sheet = contact_sheet(contents, styles, result / "images", output / "contact_sheet.png", told)
    print(f"images         {result / 'images'}")
    print(f"records        {result / 'records'}")
    print(f"contact sheet  {sheet}")
    return code


def pair_id(content: Path, style: Path) -> str:
    """Return the id of a pair, which is also its file's name."""
    return f"{content.stem}-{style.stem}"


def write_manifest(path: Path, contents: Sequence[Path], styles: Sequence[Path]) -> Path:
    """Write a manifest of every content with every style. URIs are relative to its folder."""
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
    contents: Sequence[Path], styles: Sequence[Path], images: Path, target: Path, told: str = ""
) -> Path:
    """Draw contents down, styles across, results where they meet, a cross where one is missing.

    Args:
        contents: files of the contents.
        styles: files of the styles.
        images: folder of the results.
        target: file of the sheet.
        told: lines of text for the corner.
    """
    made = {
        # Its ending depends on --image-format.
        pair_id(content, style): next(images.glob(f"{pair_id(content, style)}.*"), None)
        for content in contents
        for style in styles
    }
    opened = {name: Image.open(path) if path else None for name, path in made.items()}
    page = _sheet.draw(grid(contents, styles, opened, told), EDGE)
    _sheet.save(page, target)
    return target


def grid(
    contents: Sequence[Path],
    styles: Sequence[Path],
    results: Mapping[str, Image.Image | None],
    told: str,
) -> _sheet.Sheet:
    """Return the contact sheet of all pairs.

    Args:
        contents: files of the contents.
        styles: files of the styles.
        results: pictures by ``pair_id``; None where there is none.
        told: lines of text for the corner.
    """
    rows: list[list[_sheet.Cell]] = [
        [(told, ""), *((Image.open(style), style.stem) for style in styles)]
    ]
    for content in contents:
        of_content = (results[pair_id(content, style)] for style in styles)
        rows.append([(Image.open(content), content.stem), *((image, "") for image in of_content)])
    return _sheet.Sheet((), rows)


if __name__ == "__main__":
    sys.exit(main())
