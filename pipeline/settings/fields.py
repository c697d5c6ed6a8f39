"""Settings as dataclass fields with a help text, a unit and a range."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Final, Literal

from pipeline.redaction import redact, redact_text


class SettingError(ValueError):
    """A setting is unknown, of the wrong type or out of range, or clashes with another one.

    The message names the setting and says what to do.
    """


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    least: float | None = None,
    unit: str = "",
    group: str = "",
) -> Any:
    """Return a dataclass field that carries its documentation and its range.

    Args:
        default: value if nothing is given.
        help: what the setting does, for ``--help`` and docs/settings.md.
        low: lowest value.
        high: highest value.
        above: the value must be larger than this.
        least: values between 0 and this are refused.
        unit: of the value.
        group: title over this field and those that follow it, up to the next field with a title.
    """
    limits = {"low": low, "high": high, "above": above, "least": least, "unit": unit}
    return field(default=default, metadata={"help": help, "group": group, **limits})


WEIGHT: Final[Mapping[str, Any]] = {"low": 0, "high": 1e15, "least": 1e-15}
"""Range of a loss weight. Next to other losses, float32 cannot resolve values beyond it."""


def unknown_setting(name: str, known: Iterable[str]) -> SettingError:
    """Return an error that names the most similar setting, or all settings if none is similar."""
    names = list(known)
    meant = did_you_mean(name, names) or f"choose from {', '.join(names)}"
    return SettingError(f"{in_short(name)[1:-1]}: is no setting; {meant}")


LIKE = 0.7
"""Lowest similarity (0 to 1) of a known name to be suggested in place of a misspelled one."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the most similar known name; empty if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    return f"did you mean {near[0]}?" if near else ""


def grouped(settings: type) -> dict[str, list["dataclasses.Field[Any]"]]:
    """Return the fields of a settings class by group title, in order."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    title = ""
    for spec in dataclasses.fields(settings):
        title = spec.metadata["group"] or title
        groups.setdefault(title, []).append(spec)
    return groups


def describe_range(spec: "dataclasses.Field[Any]") -> str:
    """Return a field's range in words: ``32 to 8192 px``, ``avg | max``; empty without limits."""
    choices = choices_of(spec)
    if choices:
        more = "" if takes_only(spec) else f" | {describe_type(spec)}"
        return " | ".join(choices) + more
    low, high, above, unit = (spec.metadata[key] for key in ("low", "high", "above", "unit"))
    text = ""
    if above is not None:
        text = f"above {above}"
    elif low is not None:
        text = f"at least {low}" if high is None else f"{low}"
    if spec.metadata["least"] is not None:
        return f"0, or {spec.metadata['least']:g} to {high:g}"
    if high is not None:
        text = f"{text} to {high}" if above is None else f"{text}, at most {high}"
    return f"{text} {unit}".strip()


def as_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments as settings take them: lists as tuples, numpy's numbers as Python's.

    Args:
        values: by the names of settings.
    """
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def choices_of(spec: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """Return the words that a field with a ``Literal`` type may hold; empty for other types."""
    return tuple(
        word
        for hint in parts_of(spec.type)
        if typing.get_origin(hint) is Literal
        for word in typing.get_args(hint)
    )


def takes_only(spec: "dataclasses.Field[Any]") -> bool:
    """Return whether a field may hold nothing but one of its ``choices_of``."""
    return typing.get_origin(spec.type) is Literal


def parts_of(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def in_short(value: Any) -> str:
    """Return ``repr`` of any value, shortened to about a hundred characters on one line.

    Addresses in it are shown without credentials.
    """
    try:
        text = _BRIEF.repr(value)
    except Exception:  # for example an integer of 5000 digits
        text = f"a value of type {type(value).__name__}"
    return " ".join(text.split())


class _Brief(reprlib.Repr):
    """Shortens texts once they are redacted: half an address no longer looks like one."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)

    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, str):
            return self.repr_str(str(x), level)
        text = redact_text(repr(x))
        return text if len(text) <= self.maxother else f"{text[: self.maxother - 3]}..."


_BRIEF = _Brief()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 80


_KINDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    tuple[float, ...]: "a list of numbers",
    tuple[str, ...]: "a list of texts",
}


def describe_type(spec: "dataclasses.Field[Any]") -> str:
    """Return the kind of value that a field takes, in words; not for a ``Literal`` or a mapping."""
    return _KINDS[plain_type(spec)]


def plain_type(spec: "dataclasses.Field[Any]") -> Any:
    """Return a field's type without ``| None`` and without ``Literal`` words."""
    if takes_only(spec):
        return spec.type
    return next(
        hint
        for hint in parts_of(spec.type)
        if hint is not types.NoneType and typing.get_origin(hint) is not Literal
    )
