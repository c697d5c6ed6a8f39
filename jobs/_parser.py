"""How a command is called, and the parser of its options with a short and a long help."""

import argparse
import copy
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pipeline.redaction import redact_text
from pipeline.settings import SettingError

PROGRAM = "neural-style"


SUBCOMMANDS: Mapping[str, str] = {
    "stylize": "stylize",
    "make_manifest": "manifest",
    "verify": "verify",
    "report": "report",
    "demo": "demo",
    "benchmark": "bench",
}
"""Modules of ``jobs`` by the word that calls them."""


def command(job: str) -> str:
    """Return how to call the module ``jobs.JOB``, in the form in which this process was called."""
    by_word = Path(sys.argv[0]).name.startswith(PROGRAM)
    return f"{PROGRAM} {SUBCOMMANDS[job]}" if by_word else f"python -m jobs.{job}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of settings, in one line."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            SettingError: always.
        """
        raise SettingError(f"{redact_text(message)}; {self.prog} --help shows the options")


class _Help(argparse.Action):
    """``--help`` or, if ``usual`` is None, ``--help-all``."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        help: str,
        usual: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.usual = usual

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(parser.format_help() if self.usual is None else _short_help(parser, self.usual))
        parser.exit()


def _short_help(parser: argparse.ArgumentParser, usual: Mapping[str, str]) -> str:
    """Return the first two paragraphs of the description, and the options most people use."""
    formatter = parser._get_formatter()
    formatter.add_usage(parser.usage, [], [])
    formatter.add_text("\n\n".join((parser.description or "").split("\n\n")[:2]))
    formatter.start_section("options")
    known = {action.dest: action for action in parser._actions}
    for name, text in usual.items():
        action = copy.copy(known[name])
        action.help = text
        formatter.add_argument(action)
    formatter.end_section()
    formatter.add_text(f"All options, in groups: {parser.prog} --help-all")
    return formatter.format_help()


def new_parser(
    job: str,
    description: str | None,
    needs: str = "--manifest URI --output URI",
    usual: Mapping[str, str] | None = None,
) -> Parser:
    """Return the parser of ``jobs.JOB``; ``read_options`` gives it the settings' options.

    Args:
        job: name of the module.
        description: its first two paragraphs stand in the short help.
        needs: what the command cannot do without.
        usual: names of the options in the short help, with their texts; all options if None.
    """
    prog = command(job)
    usage = f"{prog} {needs} [options]"
    width = min(shutil.get_terminal_size().columns, 100)
    parser = Parser(
        prog=prog,
        usage=textwrap.fill(usage, width - len("usage: "), subsequent_indent=" " * 4),
        description=_in_lines(description or "", width),
        allow_abbrev=False,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "show the options that most people use" if usual else "show this"
    parser.add_argument("-h", "--help", action=_Help, usual=usual, help=text)
    parser.add_argument("--help-all", action=_Help, help="show all options, in groups")
    return parser


def _in_lines(text: str, width: int) -> str:
    """Fill the paragraphs of a text; examples, which are indented, stay as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs
    )
