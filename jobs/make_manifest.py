# PYTHON_ARGCOMPLETE_OK
r"""Make a manifest: a table of pairs of the images of two folders.

    neural-style manifest --content ./photos --style ./art --output ./pairs
    neural-style manifest --content 's3://bucket/photos/**/*.jpg' \
        --style s3://bucket/art --output s3://bucket/pairs \
        --styles-per-content 5 --label-from parent --split-from parent

Every content is paired with --styles-per-content styles that are drawn for it, or with all of them
(--mode cross). Draws and pair_ids depend on the names below the two folders and on --seed, not on
the order of the files nor on where the folders are. Files are listed in a stream: a million of them
need no more memory than a thousand. "neural-style stylize" does this itself if it is given the two
folders.

Exit code: 0 the manifest is made, 2 it is not, 130 stopped by Ctrl-C.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from jobs import _terminal
from jobs._cli import KINDS, read_options
from jobs._parser import command, new_parser
from pipeline.data.words import counted
from pipeline.redaction import redact
from pipeline.settings import ManifestSettings, SettingError

if TYPE_CHECKING:
    from pipeline.data.make_manifest.built import Built

NEEDS = "--content DIR --style DIR --output DIR"

USUAL = {
    "content": "folder of images, a glob in quotes, or a data set: Parquet, tars, CSV",
    "style": "style images, in the same forms",
    "output": "folder of the manifest",
    "styles_per_content": "styles that are drawn for each content [1]",
    "mode": "cross: each content with every style [sample]",
    "limit": "take so many content images only, a random sample",
    "label_from": "parent: a content's folder is its class [the data set's own]",
    "split_from": "parent: the folder above is its split [the data set's own]",
    "labels": "CSV file with file_name, label, split",
    "seed": "another seed draws other styles [0]",
    "overwrite": "replace the manifest in the output",
    "config": "these and all other settings, in YAML or TOML",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the manifest and say what it holds; returns the exit code."""
    parser = new_parser("make_manifest", __doc__, NEEDS, USUAL)
    try:
        (values,), _ = read_options(argv, parser, KINDS["make_manifest"])
        settings = ManifestSettings(**values)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    # Loaded here, so that --help and a mistyped option answer at once.
    from pipeline.data.errors import RowError
    from pipeline.data.make_manifest.building import build
    from pipeline.data.make_manifest.built import BuildError

    try:
        with _terminal.busy("making the manifest", "made the manifest"):
            built = build(settings, partial(_say_progress, settings.rows_per_file))
    except (BuildError, RowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; no manifest was made", file=sys.stderr)
        return 130
    print_summary(built, settings)
    return 0


def _say_progress(rows_per_file: int, built: "Built") -> None:
    if built.pairs == rows_per_file * built.files:  # else it was the last one
        print(f"{_counts(built)} so far", file=sys.stderr)


def _counts(built: "Built") -> str:
    return f"{counted(built.pairs, 'pair')} of {counted(built.contents, 'content image')}"


def print_summary(built: "Built", settings: ManifestSettings) -> None:
    """Print what the manifest holds in a few lines, on standard output."""
    from pipeline.data.make_manifest.built import describe
    from pipeline.data.storage import uris

    print(
        f"{_counts(built)} and {counted(built.styles, 'style')} in {counted(built.files, 'file')}"
    )
    if built.skipped:
        print(f"skipped: {describe(built.skipped)}")
    if built.left_out:
        left_out = counted(built.left_out, "content image")
        print(f"{left_out} stay as they are and have no row; --include-originals adds one for each")
    if built.originals:
        print(f"{counted(built.originals, 'pair')} without a style: copies of the content images")
    for name, counts in (("label", built.labels), ("split", built.splits)):
        if name in built.columns:
            _print_places(name, counts)
    if built.unmet_labels:
        labels, unmet = redact(settings.labels), counted(built.unmet_labels, "file")
        print(f"warning: {labels} names {unmet} that are not among the content images")
    if built.splits[None] and len(built.splits) > 1:
        print(
            "warning: results without a split will lie beside the folders of splits, and Hugging "
            "Face's imagefolder passes over them there; see docs/formats.md"
        )
    own = uris.scheme_of(settings.output)
    schemes = {uris.scheme_of(settings.content), uris.scheme_of(settings.style)}
    others = sorted(schemes - {own, *uris.OBJECT_STORES})
    allow = f" --allow-schemes {','.join(others)}" if others else ""
    manifest = shlex.quote(redact(settings.output))
    print(f"next: {command('stylize')} --manifest {manifest} --output OUTPUT{allow}")


def _print_places(name: str, counts: Counter[str | None]) -> None:
    found = [(place, count) for place, count in counts.most_common() if place is not None]
    named = ", ".join(f"{place} {count}" for place, count in found[:5])
    more = ", ..." if len(found) > 5 else ""
    some = f"{counted(len(found), name)} (content images of each: {named}{more})"
    print(some if found else f"no {name}")
    if counts[None]:
        print(f"{counted(counts[None], 'content image')} without a {name}")


if __name__ == "__main__":
    sys.exit(main())
