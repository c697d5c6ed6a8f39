"""Values of settings from the command line and from ``--config`` files, and back as text."""

import dataclasses
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.data.words import printable
from pipeline.redaction import redact
from pipeline.settings import (
    SettingError,
    choices_of,
    describe_range,
    describe_type,
    in_short,
    plain_type,
)
from pipeline.settings.validation import OPTIONS_BY_SCHEME

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def convert(spec: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a string from the command line, or a value from a file, as the field's type.

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


def shown_default(spec: "dataclasses.Field[Any]") -> str:
    """Return a field's default as one would give it; empty if it has none, or is off."""
    value = spec.default
    if value in (None, "", ()) or value is False:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if value is True:
        return "on"
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_config(path: str) -> dict[str, Any]:
    shown = printable(redact(path))
    try:
        text = Path(path).read_text()
        values = tomllib.loads(text) if path.endswith(".toml") else _load_yaml(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SettingError(f"config {shown}: cannot be read: {_in_one_line(error)}") from error
    if not isinstance(values, dict):
        raise SettingError(f"config {shown}: must hold settings by name, as 'image_size: 512'")
    return values


def _in_one_line(error: Exception) -> str:
    """Return what is wrong, and where if that is known: YAML says that in lines of their own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    problem = " ".join(str(getattr(error, "problem", "")).split())
    if re.search("alias|anchor|the tag", problem):
        problem = "*, & and ! have a meaning in YAML: quote the value"  # it may be a password
    return f"{problem} (at line {mark.line + 1}, column {mark.column + 1})"


def _load_yaml(text: str) -> Any:
    """Every scalar as text, to be read as an option would be; in ``storage_options`` by its type.

    YAML itself takes 1e-3 for a text, and no for a boolean. But storage options go to fsspec as
    they are, for which a text "false" is true.
    """
    values = yaml.load(text, yaml.BaseLoader)  # noqa: S506 (it makes nothing but text)
    if isinstance(values, dict) and "storage_options" in values:
        loader = yaml.SafeLoader(text)
        root: Any = loader.get_single_node()  # a mapping, as seen above
        nodes = {key.value: node for key, node in root.value}
        values["storage_options"] = loader.construct_document(nodes["storage_options"])
    return values
