# PYTHON_ARGCOMPLETE_OK
"""The command ``neural-style``: a word for each job. ``python -m jobs.NAME`` is the same."""

import argparse
import contextlib
import difflib
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence

from jobs._environment import missing_package
from pipeline.settings import in_short

ABOUT = {
    "stylize": ("stylize", "make pictures: of two folders, or of a manifest of pairs"),
    "manifest": ("make_manifest", "pair two folders in a manifest, to inspect or to keep"),
    "verify": ("verify", "check an output against its manifest, and every image in it"),
    "report": ("report", "write report.html of an output, also while a job is at work"),
    "demo": ("demo", "twelve pictures in a few minutes, without a network"),
    "bench": ("benchmark", "measure speed and memory on this machine"),
}
"""Subcommands, their modules and what they do."""

EXAMPLE = "neural-style stylize --content ./photos --style ./paintings --output ./out"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        arguments = _complete(parser)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    first = arguments[0] if arguments else "--help"
    if first.startswith("-"):
        parser.parse_known_args([first])  # --help and --version end here
    if first not in ABOUT:
        near = difflib.get_close_matches(first, ABOUT, n=1)
        meant = f"did you mean {near[0]}?" if near else f"choose from {', '.join(ABOUT)}"
        print(f"error: {in_short(first)} is no command of neural-style; {meant}", file=sys.stderr)
        return 2
    try:
        job = importlib.import_module(f"jobs.{ABOUT[first][0]}")
        code: int = job.main(arguments[1:])
    except ModuleNotFoundError as error:
        line = missing_package(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # while it was loading; or a command that says no more about it
        print("stopped", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, ABOUT))
    listed = "\n".join(f"  {name:{width}}  {about}" for name, (_, about) in ABOUT.items())
    parser = argparse.ArgumentParser(
        prog="neural-style",
        usage="neural-style COMMAND [options]",
        description=f"Neural style transfer over whole folders and data sets.\n\n"
        f"commands:\n{listed}\n\nexample:\n  {EXAMPLE}",
        epilog="neural-style COMMAND --help shows a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    command = parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    command.completer = lambda **_: list(ABOUT)  # type: ignore[attr-defined]  # for argcomplete
    return parser


def _version() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in ("ray", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    try:
        own = importlib.metadata.version("neural-style-pipeline")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        own = "(not installed)"
    return f"neural-style {own} ({', '.join(found)})"


def _complete(parser: argparse.ArgumentParser) -> list[str]:
    """Answer a shell that asks for the word after the command; else have the subcommand do so."""
    start = int(os.environ["_ARGCOMPLETE"])  # words that call this program
    typed = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode()
    words = typed.split()
    if len(words) < start + 1 or (len(words) == start + 1 and not typed[-1:].isspace()):
        import argcomplete

        argcomplete.autocomplete(parser)  # does not return
    os.environ["_ARGCOMPLETE"] = str(start + 1)
    return words[start : start + 1]


if __name__ == "__main__":
    sys.exit(main())
