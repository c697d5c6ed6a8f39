"""Any value, option or file of settings becomes settings, or one clear line that names it."""

import contextlib
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.settings import (
    LAYERS,
    JobSettings,
    SettingError,
    StyleSettings,
    choices_of,
    fingerprint,
    replace,
)
from tests.options import settings_of

examples_tried = settings(max_examples=200)

STYLE = {spec.name: spec for spec in dataclasses.fields(StyleSettings)}
JOB = {spec.name: spec for spec in dataclasses.fields(JobSettings)}


class Awkward:
    """A value that cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no")


AWKWARD = (
    10**400, 10**5000, -(10**5000), 2**63, math.nan, math.inf, -0.0, 5e-324, "", "\0", "a\nb",
    "x" * 5000, Awkward(), object, np.float64(2), np.int64(2), np.array([1, 2]), "\ud800", 1 + 2j,
    range(3), {"s3": {"key": 1}},
)  # fmt: skip

# By number: Hypothesis itself cannot show some of them.
awkward = st.integers(0, len(AWKWARD) - 1).map(AWKWARD.__getitem__)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | awkward
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=6,
)


def attempt(kind, fields):
    """The settings and nothing, or nothing and why they were refused."""
    try:
        return kind(**fields), ""
    except SettingError as error:
        return None, one_clear_line(error)


def one_clear_line(error: SettingError) -> str:
    text = str(error)
    assert len(text.splitlines()) == 1
    assert len(text) < 1500
    return text


def near_range(spec) -> st.SearchStrategy:
    """Values that a field allows, and those just outside."""
    if choices_of(spec):
        return st.sampled_from(choices_of(spec))
    edges = [spec.metadata[key] for key in ("low", "high", "above", "least")]
    numbers = [edge for edge in edges if edge is not None]
    floats = [np.nextafter(edge, edge + way) for edge in numbers for way in (-1, 1)]
    integers = [int(edge) + step for edge in numbers for step in (-1, 0, 1)]
    layers = st.lists(st.sampled_from(LAYERS), max_size=6).map(tuple)
    weights = st.lists(st.floats(0, 9), max_size=6).map(tuple)
    return st.sampled_from([*floats, *integers, True, spec.default]) | layers | weights


@pytest.mark.parametrize(
    ("kind", "needed", "specs"),
    [(StyleSettings, {}, STYLE), (JobSettings, {"manifest": "m", "output": "o"}, JOB)],
)
def test_any_value_is_taken_or_refused_by_name(kind, needed, specs):
    @examples_tried
    @given(st.data())
    def check(data):
        name = data.draw(st.sampled_from(list(specs)))
        value = data.draw(anything | near_range(specs[name]))
        made, refusal = attempt(kind, {**needed, name: value})
        if made is None:
            assert name in refusal
        else:
            assert getattr(made, name) == value

    check()


@examples_tried
@given(st.data())
def test_settings_outlive_json_with_their_fingerprint(data):
    names = data.draw(st.lists(st.sampled_from(list(STYLE)), unique=True, max_size=6))
    changes = {name: data.draw(near_range(STYLE[name]) | scalars) for name in names}
    made, refusal = attempt(StyleSettings, changes)
    if made is None:
        assert any(name in refusal for name in names)
        return
    fields = json.loads(json.dumps(dataclasses.asdict(made)))
    again = StyleSettings(
        **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    )
    assert again == made
    assert fingerprint(again, "weights") == fingerprint(made, "weights")


@examples_tried
@given(st.text())
@example("a\nb")
@example("x" * 5000)
def test_an_unknown_name_is_refused(name):
    if name not in STYLE:
        with pytest.raises(
            SettingError, match=r"is no setting; (choose from|did you mean)"
        ) as caught:
            replace(StyleSettings(), **{name: 1})
        one_clear_line(caught.value)


def parsed(argv: list[str]) -> bool:
    """Whether these options are settings. Refusals are a SettingError, or argparse's 2."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            style, job = settings_of(argv)
    except SettingError as error:
        one_clear_line(error)
        return False
    except SystemExit as error:
        ended = error
    else:
        assert isinstance(style, StyleSettings)
        assert isinstance(job, JobSettings)
        return True
    assert ended.code == 2 or "-h" in "".join(argv)
    return False


options = st.sampled_from([f"--{name.replace('_', '-')}" for name in (*STYLE, *JOB)])
words = (
    st.text()
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.sampled_from(
        [
            "--config", "/", "\0", "9" * 5000, "1e999", "nan", "[" * 100_000, "{", '{"s3": 1}', "3",
            "1:2:3", ":", "0:1", ",", "conv1_1,conv1_1", "--", "-", "none", "avg", "true",
            "--no-color-preconditioner", "1_0", "\udcff", "@x", "%s", "--config=a\nb",
        ]
    )
)  # fmt: skip


@examples_tried
@given(st.lists(st.one_of(options, words, st.tuples(options, words).map("=".join)), max_size=8))
@example(["--storage-options", "[" * 100_000])
@example(["--config", "a\nb.yaml"])
@example(["--content-weight", "9" * 5000])
def test_any_command_line_is_settings_or_a_refusal(argv):
    parsed(argv)
    parsed(["--manifest", "m", "--output", "o", *argv])


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@examples_tried
@given(st.data())
def test_any_config_file_is_settings_or_a_refusal(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    names = st.sampled_from([*STYLE, *JOB]) | st.text(min_size=1)
    content = data.draw(
        st.dictionaries(names, values, max_size=4).map(json.dumps)  # JSON is YAML, but for details
        | st.text()
        | st.sampled_from(["&a [*a]", "actors: &a [*a]", "a: b: c", "? [a]\n: b", "a\0b", "\t"])
    )
    (folder / "c.yaml").write_text(content, encoding="utf-8", errors="replace")
    parsed(["--config", str(folder / "c.yaml"), "--manifest", "m", "--output", "o"])
    name = data.draw(st.sampled_from([*STYLE, *JOB]))
    value = data.draw(
        st.sampled_from(
            ["9" * 5000, "1" + "0" * 400, "inf", "nan", "1979-05-27", "[[1], {a = 1}]", '"\\n"']
        )
        | st.text()
        | values.map(json.dumps)
    )
    (folder / "c.toml").write_text(f"{name} = {value}\n", encoding="utf-8", errors="replace")
    parsed(["--config", str(folder / "c.toml"), "--manifest", "m", "--output", "o"])


def test_a_secret_in_storage_options_is_never_shown():
    for text in ('"hunter2"', '{"s3": {"key": "hunter2"}', '["hunter2"]'):
        with pytest.raises(SettingError, match="storage_options: the value") as caught:
            settings_of(["--manifest", "m", "--output", "o", "--storage-options", text])
        assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_text_or_too_deep_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\0image_size")
    assert not parsed(["--config", str(tmp_path / "c.yaml")])
    assert not parsed(["--config", str(tmp_path)])
    for name in ("deep.yaml", "deep.toml"):
        (tmp_path / name).write_text("seed = " * name.endswith("toml") + "[" * 2000)
        assert not parsed(["--config", str(tmp_path / name)])
