"""The command line, made from the settings' dataclasses: one option for each field.

``--help`` shows the options that most people use, ``--help-all`` all of them in groups.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import re
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from jobs._parser import command
from jobs._values import convert, read_config, shown_default
from pipeline.redaction import redact, redact_text
from pipeline.settings import (
    JobSettings,
    ManifestSettings,
    SettingError,
    StyleSettings,
    choices_of,
    describe_range,
    did_you_mean,
    grouped,
    in_short,
    plain_type,
    takes_only,
    unknown_setting,
)

METAVARS = {int: "N", float: "X", str: "TEXT", Mapping[str, Any]: "JSON"}


OF_A_JOB = (JobSettings, StyleSettings)


FOLDERS = (
    *("content", "style", "mode", "styles_per_content", "label_from", "split_from", "labels"),
)
"""Settings of a manifest that a job takes too: it then makes the manifest itself."""


Kinds = Mapping[type, Container[str] | None]
"""Classes of settings, and the fields that a command takes of each; None for all."""


JOB_KINDS: Kinds = {JobSettings: None, StyleSettings: None, ManifestSettings: FOLDERS}


KINDS: Mapping[str, Kinds] = {"stylize": JOB_KINDS, "make_manifest": {ManifestSettings: None}}
"""The kinds of the commands that have many options."""


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type,
    fields: Container[str] | None = None,
    only: Container[str] | None = None,
) -> None:
    """Add an option for each field, by groups; an option not given leaves nothing behind.

    Args:
        parser: gets the options.
        settings: the dataclass.
        fields: the fields that are taken, in one group; all in their own groups if None.
        only: as for ``read_options``; these are not grouped.
    """
    one = parser.add_argument_group("two folders, in place of --manifest") if fields else parser
    for title, specs in grouped(settings).items():
        whole = fields is None and only is None
        group = parser.add_argument_group(title) if whole else one
        for spec in specs:
            if all(names is None or spec.name in names for names in (fields, only)):
                _add_option(group, spec)


def _add_option(
    group: argparse.ArgumentParser | argparse._ArgumentGroup, spec: "dataclasses.Field[Any]"
) -> None:
    option = "--" + spec.name.replace("_", "-")
    default = shown_default(spec)
    choices = choices_of(spec)  # named by the metavar
    notes = ["" if choices else describe_range(spec), default and f"default {default}"]
    note = "; ".join(note for note in notes if note)
    text = spec.metadata["help"] + (f" [{note}]" if note else "")
    if spec.type is bool:
        on_off = argparse.BooleanOptionalAction if spec.default else "store_true"
        group.add_argument(option, action=on_off, default=argparse.SUPPRESS, help=text)
        return
    other = () if takes_only(spec) else (METAVARS.get(plain_type(spec), "LIST"),)
    metavar = "|".join((*choices, *other))
    action = group.add_argument(option, default=argparse.SUPPRESS, help=text, metavar=metavar)
    if choices:
        action.completer = lambda **_: choices  # type: ignore[attr-defined]  # for argcomplete


class _StandardError(logging.Handler):
    """Whatever standard error is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_what_is_logged() -> None:
    """Write what ``pipeline`` logs to standard error, one line each."""
    logger = logging.getLogger("pipeline")
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
        logger.setLevel(logging.INFO)


def read_options(
    argv: Sequence[str] | None,
    parser: argparse.ArgumentParser,
    kinds: Kinds,
    only: Container[str] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the values of each class of settings, by field; and of the parser's own options.

    Args:
        argv: the process's own if None.
        parser: gets the options.
        kinds: what the command line and the file may hold.
        only: the fields that have an option here; all if None. The file may hold the others too,
            so that one file serves several commands.

    Raises:
        SettingError: an unknown option, an unknown name in the file, or a value that cannot be
            read.
    """
    show_what_is_logged()
    own = {action.dest for action in parser._actions}
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or TOML file of settings by name, without the dashes"
    )
    for settings, fields in kinds.items():
        add_settings(parser, settings, fields, only)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _unknown_option(unknown[0], parser)
    given = vars(parsed)
    rest = {name: given.pop(name) for name in own & given.keys()}
    config = given.pop("config")
    values = {**(read_config(config) if config else {}), **given}
    found: list[dict[str, Any]] = []
    taken: list[str] = []
    for settings, fields in kinds.items():
        specs = _fields_of({settings: fields})
        mine = [name for name in values if name in specs]
        found.append({name: convert(specs[name], values.pop(name)) for name in mine})
        taken += specs
    for name in values:
        raise unknown_setting(name, taken)
    return found, rest


def _fields_of(kinds: Kinds) -> dict[str, "dataclasses.Field[Any]"]:
    return {
        spec.name: spec
        for settings, names in kinds.items()
        for spec in dataclasses.fields(settings)
        if names is None or spec.name in names
    }


def _unknown_option(given: str, parser: argparse.ArgumentParser) -> SettingError:
    name = given.partition("=")[0]  # the value may be a secret
    if not name.startswith("-"):
        usage = " ".join(parser.format_usage().split()) if parser.usage else "see --help"
        shown = in_short(redact(name))[1:-1] or "an empty word"
        return SettingError(
            f"{shown}: belongs to no option (a pattern such as '*.jpg' wants quotes); {usage}"
        )
    field = name[2:].replace("-", "_") if re.fullmatch(r"--[a-z-]+", name) else ""
    owners = [command(job) for job, kinds in KINDS.items() if field in _fields_of(kinds)]
    if owners:
        return SettingError(f"{name}: is no option here, but of {' and '.join(owners)}")
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    meant = did_you_mean(name, known) or "--help-all lists all options"
    return SettingError(f"{in_short(redact(name))[1:-1]}: is no option; {meant}")


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Let whoever reads what the block prints end before it does, as ``| head -3`` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


RAYS_ADVICE = "(To change retry attempts"
"""How the line begins that Ray Data adds to a task's error."""


def why_it_broke_off(error: Exception) -> str:
    """Return the line of Ray's error that says what happened: the last one before its advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(RAYS_ADVICE)]
    return redact_text(told[-1]) if told else type(error).__name__
