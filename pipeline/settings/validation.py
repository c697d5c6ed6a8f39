"""Check the values of settings: type, range, and URIs that Ray or fsspec would misread."""

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
"""RFC 3986, 3.1, in lower case. No underscore: names of options, as client_kwargs, are none."""


OPTIONS_BY_SCHEME: Final = 'options by scheme, in lower case, as {"s3": {"endpoint_url": "..."}}'


def check_value(spec: "dataclasses.Field[Any]", value: Any) -> None:
    """Whether a field may have this value, as a settings object with it would find.

    Raises:
        SettingError: it has another type, or is out of range.
    """
    hint: Any = spec.type
    if not _test_of(hint)(value):
        raise SettingError(f"{spec.name}: {_misfit(spec, value)}")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_number(spec, number)


def in_one_form(spec: "dataclasses.Field[Any]", value: Any) -> Any:
    """1 as 1.0 and -0.0 as 0.0 where a field takes fractions, so that equal values look equal."""
    if not _takes_fractions(spec.type):
        return value
    if isinstance(value, tuple):
        return tuple(float(number) + 0.0 for number in value)
    return float(value) + 0.0 if isinstance(value, (int, float)) else value


def _takes_fractions(hint: Any) -> bool:
    return hint is float or any(map(_takes_fractions, typing.get_args(hint)))


def _misfit(spec: "dataclasses.Field[Any]", value: Any) -> str:
    if spec.name == "storage_options":  # what they hold may be a secret
        return f"the value must be {OPTIONS_BY_SCHEME}"
    if choices := choices_of(spec):
        more = "" if takes_only(spec) else f", nor {describe_type(spec)}"
        return f"{in_short(value)} is not one of: {', '.join(choices)}{more}"
    allowed = describe_range(spec)
    limits = f"; range: {allowed}" if allowed else ""
    return f"{in_short(value)} is not {describe_type(spec)}{limits}"


def check_by_scheme(options: Mapping[str, Any] | None) -> None:
    """Options without a scheme above them would reach no storage, and nobody would say so."""
    for scheme, given in (options or {}).items():
        known = isinstance(scheme, str) and SCHEME.fullmatch(scheme)
        if not known or not isinstance(given, Mapping):  # shows neither: they may be secrets
            raise SettingError(f"storage_options: must be {OPTIONS_BY_SCHEME}")


def refuse_chain(name: str, uri: str) -> None:
    """To fsspec ``a::b`` is a file in another one, also where it is the path of a local file."""
    if "::" in uri:  # not shown: it may hold a password
        raise SettingError(
            f"{name}: has '::' in it, which stands between chained URIs, and these are never "
            "taken; choose or make a path without it"
        )


def refuse_patterns(output: str) -> None:
    """Ray and fsspec read, move and delete by name, and take these names for something else.

    Ray cuts a path off at ``?`` when it looks for files that end in .parquet, so that all seems to
    be done, and leaves tabs and line ends out of it; fsspec moves and deletes whatever a pattern
    fits, other outputs as well.
    """
    local = "://" not in output or output.lower().startswith("file:")
    found = re.search(r"[?\t\r\n]" if local else r"[?\t\r\n*[]", output)
    if found:
        raise SettingError(
            f"output: has {found[0]!r} in its name, which Ray and fsspec take for a pattern or the "
            "end of a path, or leave out; choose an output without it"
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
    """What says whether a value has the type ``hint``. Made once: rows come by the million."""
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
