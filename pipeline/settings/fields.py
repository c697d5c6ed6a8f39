"""A setting as a dataclass field: its help text, unit and range, and these in words."""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Final, Literal


class SettingError(ValueError):
    """A setting is unknown, of the wrong type or out of range. The message names all three."""


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
    """A dataclass field with its documentation: ``low <= value <= high`` and ``above < value``,
    and nothing between 0 and ``least``.

    ``group`` is the title under which it and those after it are shown, up to the next with one.
    """
    limits = {"low": low, "high": high, "above": above, "least": least, "unit": unit}
    return field(default=default, metadata={"help": help, "group": group, **limits})


WEIGHT: Final[Mapping[str, Any]] = {"low": 0, "high": 1e15, "least": 1e-15}
"""Range of a loss's weight. float32 cannot tell what is smaller or larger beside another."""


def unknown_setting(name: str, known: Iterable[str]) -> SettingError:
    """The error that names the setting which may have been meant, or else all of them."""
    names = list(known)
    meant = did_you_mean(name, names) or f"choose from {', '.join(names)}"
    return SettingError(f"{in_short(name)[1:-1]}: is no setting; {meant}")


LIKE = 0.7
"""Of 1, how like a known name another one is at least, for it to have been meant."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is most like it, in words; empty if none is like it."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    return f"did you mean {near[0]}?" if near else ""


def grouped(settings: type) -> dict[str, list["dataclasses.Field[Any]"]]:
    """The fields of a settings class under their groups' titles, all in their order."""
    groups: dict[str, list[dataclasses.Field[Any]]] = {}
    title = ""
    for spec in dataclasses.fields(settings):
        title = spec.metadata["group"] or title
        groups.setdefault(title, []).append(spec)
    return groups


def describe_range(spec: "dataclasses.Field[Any]") -> str:
    """A field's range in words: ``32 to 8192 px``, ``avg | max``; empty if all is allowed."""
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


def choices_of(spec: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """The words that a field may hold by its ``Literal``, else nothing."""
    return tuple(
        word
        for hint in parts_of(spec.type)
        if typing.get_origin(hint) is Literal
        for word in typing.get_args(hint)
    )


def takes_only(spec: "dataclasses.Field[Any]") -> bool:
    """Whether a field holds nothing but one of its ``choices_of``."""
    return typing.get_origin(spec.type) is Literal


def parts_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of another type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def in_short(value: Any) -> str:
    """``repr`` of any value whatsoever, for one line of a message: some hundred letters at most."""
    try:
        text = _BRIEF.repr(value)
    except Exception:  # an integer of 5000 digits, for one
        text = f"a value of type {type(value).__name__}"
    return " ".join(text.split())


_BRIEF = reprlib.Repr()
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
    """The kind of value that a field takes, in words; not for a ``Literal`` or a mapping."""
    return _KINDS[plain_type(spec)]


def plain_type(spec: "dataclasses.Field[Any]") -> Any:
    """The field's type without ``| None``, and without words that stand for a value."""
    if takes_only(spec):
        return spec.type
    return next(
        hint
        for hint in parts_of(spec.type)
        if hint is not types.NoneType and typing.get_origin(hint) is not Literal
    )
