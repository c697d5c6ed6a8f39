"""The command line, made from the settings' dataclasses: one option for each field."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
import typing
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.data.redaction import redact, redact_text
from pipeline.settings import (
    JobSettings,
    SettingError,
    StyleSettings,
    choices_of,
    describe_range,
    describe_type,
    did_you_mean,
    grouped,
    in_short,
    plain_type,
    takes_only,
    unknown_setting,
)
from pipeline.settings.validation import OPTIONS_BY_SCHEME

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

METAVARS = {int: "N", float: "X", str: "TEXT", Mapping[str, Any]: "JSON"}

OF_A_JOB = (JobSettings, StyleSettings)


def new_parser(
    job: str, description: str | None, needs: str = "--manifest URI --output URI"
) -> argparse.ArgumentParser:
    """The parser of ``jobs.JOB``, which cannot do without ``needs``; ``parse`` fills it."""
    prog = f"python -m jobs.{job}"
    return argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} {needs} [options]",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_settings(
    parser: argparse.ArgumentParser, settings: type, only: Container[str] | None = None
) -> None:
    """Add an option for each field, by groups; an option not given leaves nothing behind.

    Args:
        only: the fields that get one, and these are not grouped; all if None.
    """
    for title, specs in grouped(settings).items():
        group = parser if only is not None else parser.add_argument_group(title)
        for spec in specs:
            if only is None or spec.name in only:
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


def parse(
    argv: Sequence[str] | None,
    parser: argparse.ArgumentParser,
    only: Container[str] | None = None,
) -> tuple[StyleSettings, JobSettings]:
    """Settings from a ``--config`` file and the options given; options win.

    Args:
        argv: the process's own if None.
        parser: gets the options.
        only: settings that have an option here; all if None. A file may always hold all of them,
            so that one file serves several commands.

    Raises:
        SettingError: an unknown name, or a value of a wrong type or out of range.
    """
    (job, style), _ = read_options(argv, parser, OF_A_JOB, only)
    return StyleSettings(**style), JobSettings(**job)


class _StandardError(logging.Handler):
    """Whatever standard error is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_what_is_logged() -> None:
    """What ``pipeline`` logs goes to standard error, one line each."""
    logger = logging.getLogger("pipeline")
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        logger.addHandler(_StandardError())
        logger.setLevel(logging.INFO)


def read_options(
    argv: Sequence[str] | None,
    parser: argparse.ArgumentParser,
    kinds: Sequence[type],
    only: Container[str] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The values of each class of settings, by field; and those of the parser's own options.

    Args:
        kinds: the classes of settings whose fields are its options.

    Raises:
        SettingError: an unknown option, an unknown name in the file, or a value that cannot be
            read.
    """
    show_what_is_logged()
    own = {action.dest for action in parser._actions}
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or TOML file of settings by name, without the dashes"
    )
    for settings in kinds:
        add_settings(parser, settings, only)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may follow
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _unknown_option(unknown[0], parser)
    given = vars(parsed)
    rest = {name: given.pop(name) for name in own & given.keys()}
    config = given.pop("config")
    values = {**(_read_config(config) if config else {}), **given}
    found: list[dict[str, Any]] = []
    for settings in kinds:
        specs = {spec.name: spec for spec in dataclasses.fields(settings)}
        mine = [name for name in values if name in specs]
        found.append({name: convert(specs[name], values.pop(name)) for name in mine})
    for name in values:
        raise unknown_setting(
            name, [spec.name for kind in kinds for spec in dataclasses.fields(kind)]
        )
    return found, rest


def _unknown_option(given: str, parser: argparse.ArgumentParser) -> SettingError:
    name = given.partition("=")[0]  # the value may be a secret
    known = [option for option in parser._option_string_actions if option.startswith("--")]
    meant = did_you_mean(name, known) or "--help lists all options"
    return SettingError(f"{in_short(redact(name))[1:-1]}: is no option; {meant}")


def convert(spec: "dataclasses.Field[Any]", value: Any) -> Any:
    """A string from the command line, or a value from a file, as the field's type.

    Raises:
        SettingError: it cannot be read so.
    """
    if value in choices_of(spec):
        return value
    try:
        return _convert(plain_type(spec), value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        if spec.name == "storage_options":  # it may be a secret: not even a mistyped one is shown
            why = f"the value is no JSON; give {OPTIONS_BY_SCHEME}"
        else:
            allowed = describe_range(spec) or describe_type(spec)
            why = f"{in_short(value)} cannot be read; range: {allowed}"
        raise SettingError(f"{spec.name}: {why}") from error


def _convert(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str):
            value = [part for part in value.split(",") if part]
        return tuple(_convert(item, part) for part in value)
    if origin is not None and origin is not Literal:  # a mapping
        return json.loads(value) if isinstance(value, str) else value
    if hint is bool and value in ("true", "false"):
        return value == "true"
    if hint in (int, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
        return hint(value)
    return value


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """A block that prints: whoever reads it may end before it does, as ``| head -3`` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python writes what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


RAYS_ADVICE = "(To change retry attempts"
"""How the line begins that Ray Data adds to a task's error."""


def why_it_broke_off(error: Exception) -> str:
    """The line of Ray's error that says what happened: the last one, before its advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(RAYS_ADVICE)]
    return redact_text(told[-1]) if told else type(error).__name__


def shown_default(spec: "dataclasses.Field[Any]") -> str:
    """A field's default as one would give it; empty if it has none, or is off."""
    value = spec.default
    if value in (None, "", ()) or value is False:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is True:
        return "on"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read_config(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text()
        values = tomllib.loads(text) if path.endswith(".toml") else _load_yaml(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        shown = path if path.isprintable() else in_short(path)
        raise SettingError(f"config {shown}: cannot be read: {_in_one_line(error)}") from error
    if not isinstance(values, dict):
        raise SettingError(f"config {path}: must hold settings by name, as 'image_size: 512'")
    return values


def _in_one_line(error: Exception) -> str:
    """What is wrong, and where as far as it is known: YAML says that in lines of their own."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    problem = " ".join(str(getattr(error, "problem", "")).split())
    return f"{problem} (at line {mark.line + 1}, column {mark.column + 1})"


def _load_yaml(text: str) -> Any:
    """Every scalar as text, to be read as an option would be; in ``storage_options`` by its type.

    YAML itself takes 1e-3 for a text, and no for a boolean. But storage options go to fsspec as
    they are, for which a text "false" is true.
    """
    values = yaml.load(text, yaml.BaseLoader)  # noqa: S506 (it makes nothing but text)
    if isinstance(values, dict) and "storage_options" in values:
        loader = yaml.SafeLoader(text)
        nodes = {key.value: node for key, node in loader.get_single_node().value}
        values["storage_options"] = loader.construct_document(nodes["storage_options"])
    return values
