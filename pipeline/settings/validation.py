"""Checks of settings: types, ranges, and URIs that Ray or fsspec would misread."""

import dataclasses
import functools
import math
import operator
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from pipeline.settings.fields import (
    SettingError,
    choices_of,
    describe_range,
    describe_type,
    in_short,
    parts_of,
    takes_only,
)

SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
"""A URI scheme (RFC 3986, section 3.1) in lower case.

It has no underscore, so option names such as ``client_kwargs`` are not taken for schemes.
"""

OPTIONS_BY_SCHEME: Final = 'options by scheme, in lower case, as {"s3": {"endpoint_url": "..."}}'
"""What ``storage_options`` must be, in words."""


def check_value(spec: "dataclasses.Field[Any]", value: Any) -> None:
    """Check one value of a setting, as a settings object does on construction.

    Raises:
        SettingError: the value has the wrong type or is out of range.
    """
    hint: Any = spec.type
    if not _test_of(hint)(value):
        raise SettingError(f"{spec.name}: {_misfit(spec, value)}")
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, str) and not _is_unicode(part):
            raise SettingError(f"{spec.name}: {in_short(value)} is not UTF-8; change it")
        if isinstance(part, (int, float)) and not isinstance(part, bool):
            _check_number(spec, part)


def _is_unicode(text: str) -> bool:
    """Return whether a text can be written: Python has a file name's stray bytes as surrogates."""
    return text.isascii() or not re.search("[\ud800-\udfff]", text)


def in_one_form(spec: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a number in the one form that equal numbers share: 1 as 1.0, -0.0 as 0.0.

    Values of fields that take no fractions are returned unchanged.
    """
    if not _takes_fractions(spec.type):
        return value
    if isinstance(value, tuple):
        return tuple(float(number) + 0.0 for number in value)
    return float(value) + 0.0 if isinstance(value, (int, float)) else value


def _takes_fractions(hint: Any) -> bool:
    return hint is float or any(map(_takes_fractions, typing.get_args(hint)))


def _misfit(spec: "dataclasses.Field[Any]", value: Any) -> str:
    if spec.name == "storage_options":  # the value may be a secret
        return f"the value must be {OPTIONS_BY_SCHEME}"
    if choices := choices_of(spec):
        more = "" if takes_only(spec) else f", nor {describe_type(spec)}"
        return f"{in_short(value)} is not one of: {', '.join(choices)}{more}"
    allowed = describe_range(spec)
    limits = f"; range: {allowed}" if allowed else ""
    return f"{in_short(value)} is not {describe_type(spec)}{limits}"


def check_by_scheme(options: Mapping[str, Any] | None) -> None:
    """Check that storage options are grouped by scheme; others would be ignored silently.

    Raises:
        SettingError: they are not.
    """
    for scheme, given in (options or {}).items():
        known = isinstance(scheme, str) and SCHEME.fullmatch(scheme)
        if not known or not isinstance(given, Mapping):  # not shown: may be a secret
            raise SettingError(f"storage_options: must be {OPTIONS_BY_SCHEME}")


def refuse_chain(name: str, uri: str) -> None:
    """Refuse ``a::b``, which fsspec takes for a file inside another, even as a local path.

    Raises:
        SettingError: the URI contains ``::``.
    """
    if "::" in uri:  # not shown: it may hold a password
        raise SettingError(
            f"{name}: contains '::', which separates chained URIs, and these are not supported; "
            "choose a path without it"
        )


def refuse_patterns(output: str) -> None:
    """Refuse output names that Ray or fsspec would misread.

    Looking for files that end in .parquet, Ray cuts a path off at ``?``, so that nothing seems left
    to do, and drops tabs and line ends. fsspec moves and deletes all files that match a pattern,
    which may belong to other outputs.

    Raises:
        SettingError: the name contains such a character.
    """
    local = "://" not in output or output.lower().startswith("file:")
    found = re.search(r"[?\t\r\n]" if local else r"[?\t\r\n*[]", output)
    if found:
        raise SettingError(
            f"output: contains {found[0]!r}, which Ray or fsspec would take for a pattern or the "
            "end of the path, or drop; choose an output without it"
        )


_BOUNDS = operator.itemgetter("low", "high", "above", "least")


def _check_number(spec: "dataclasses.Field[Any]", number: float) -> None:
    low, high, above, least = _BOUNDS(spec.metadata)
    if (
        not _is_finite(number)
        or (low is not None and number < low)
        or (high is not None and number > high)
        or (above is not None and number <= above)
        or (least is not None and 0 < number < least)
    ):
        raise SettingError(
            f"{spec.name}: {in_short(number)} is out of range; "
            f"range: {describe_range(spec) or 'finite'}"
        )


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False


@functools.cache
def _test_of(hint: Any) -> Callable[[Any], bool]:
    """Return a test for values of type ``hint``; cached, since there may be millions of rows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in args
    if len(parts_of(hint)) > 1:
        tests = tuple(map(_test_of, args))
        return lambda value: any(test(value) for test in tests)
    if origin is tuple:
        test = _test_of(args[0])  # all of them are tuple[X, ...]
        return lambda value: isinstance(value, tuple) and all(map(test, value))
    if hint is bool:
        return lambda value: isinstance(value, bool)
    plain = (int, float) if hint is float else origin or hint
    return lambda value: isinstance(value, plain) and not isinstance(value, bool)
