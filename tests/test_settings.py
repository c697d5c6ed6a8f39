import dataclasses
import json

import pytest

from pipeline.settings import (
    ROW_OVERRIDES,
    JobSettings,
    ManifestSettings,
    SettingError,
    StyleSettings,
    describe_range,
    fingerprint,
    replace,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 8}, "image_size: 8 is out of range; range: 32 to 8192 px"),
        ({"image_size": 64.5}, "image_size: 64.5 is not a whole number; range: 32"),
        ({"iterations": 0}, "iterations: 0 is out of range"),
        ({"iterations": True}, "iterations: True is not a whole number"),
        ({"content_weight": -1.0}, "content_weight: -1.0 is out of range; range: 0, or 1e-15 to"),
        ({"style_weight": float("nan")}, "style_weight: nan is out of range"),
        ({"style_weight": float("inf")}, "style_weight: inf is out of range"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is out of range; range: above 0"),
        ({"pooling": "median"}, "pooling: 'median' is not one of: avg, max$"),
        ({"preserve_color": None}, "preserve_color: None is not one of: none, luminance, "),
        ({"content_layers": ("conv9_1",)}, "content_layers: 'conv9_1' is no layer"),
        ({"style_layers": ("conv1_1", "conv1_1")}, "style_layers: .* names a layer twice"),
        ({"style_layer_weights": (1.0,)}, "1 weights for 5 style_layers"),
        ({"style_layer_weights": (1.0, -1.0, 0.0, 0.0, 0.0)}, "style_layer_weights: -1.0 is out"),
        ({"content_layers": (), "style_layers": ()}, "nothing to match"),
        ({"weights": ""}, "weights: '' is empty"),
        ({"style_layers": ["conv1_1"]}, "style_layers: .* is not a list of texts$"),
        ({"weights": 1}, "weights: 1 is not a text$"),
        ({"learn_preconditioner": "no"}, "learn_preconditioner: 'no' is not true or false$"),
        ({"colour": 1}, "colour: is no setting; choose from weights, "),
        ({"image_sise": 64}, r"image_sise: is no setting; did you mean image_size\?$"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_range(change, message):
    with pytest.raises(SettingError, match=message):
        replace(StyleSettings(), **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifest": ""}, "manifest: is missing"),
        ({"output": ""}, "output: is missing"),
        ({"output": "/data/a::b"}, r"output: contains '::', .* choose a path without it$"),
        ({"manifest": "zip://m::s3://b/m.zip"}, "manifest: contains '::'"),
        ({"output": "/data/out?x=1"}, r"output: contains '\?', .* choose an output without"),
        ({"output": "file:/data/out?"}, r"output: contains '\?'"),
        ({"output": "a\tb"}, r"output: contains '\\t'"),
        ({"output": "s3://b/out[1]"}, r"output: contains '\['"),
        ({"output": "s3://b/out*"}, r"output: contains '\*'"),
        ({"actors": 0}, "actors: 0 is out of range; range: 1 to 10000"),
        ({"gpus_per_actor": 2.0}, "gpus_per_actor: 2.0 is out of range"),
        ({"image_format": "gif"}, "image_format: 'gif' is not one of: png, jpg, webp$"),
        ({"format": "tar"}, "format: 'tar' is not one of: files, webdataset, parquet$"),
        ({"shard_size": 0.0}, "shard_size: 0.0 is out of range; range: 0.01 to 4096 MB"),
        ({"quality": 101}, "quality: 101 is out of range; range: 1 to 100"),
        ({"retry_errors": True, "overwrite": True}, "exclude each other"),
        ({"storage_options": {"endpoint_url": "x"}}, "storage_options: must be options by scheme"),
        ({"storage_options": {"client_kwargs": {"verify": False}}}, "options by scheme"),
        ({"storage_options": {"S3": {"anon": True}}}, "options by scheme, in lower case"),
        ({"storage_options": {"file": "x"}}, "options by scheme"),
        ({"storage_options": {3: {}}}, "options by scheme"),
        ({"storage_options": [3]}, "storage_options: the value must be options by scheme"),
    ],
)
def test_a_bad_job_setting_is_named(change, message):
    with pytest.raises(SettingError, match=message):
        JobSettings(**{"manifest": "m", "output": "o", **change})


def test_a_local_output_may_have_letters_that_are_patterns_elsewhere():
    for output in ("out[1]", "file:///data/out*", "s3://b/{out}~#;"):
        assert JobSettings(manifest="m", output=output).output == output
    with pytest.raises(SettingError, match="output: contains '::'"):
        ManifestSettings(content="c", style="s", output="a::b")


def test_the_fingerprint_moves_with_every_setting_that_changes_pixels():
    base = StyleSettings()
    seen = {fingerprint(base, "digest"), fingerprint(base, "other digest")}
    changes = {
        "pooling": "max", "padding": "reflect", "content_layers": ("conv4_1",),
        "style_layers": ("conv1_1",), "style_layer_weights": (0.3,) * 5, "content_weight": 1.0,
        "style_weight": 2.0, "content_weight_unit": "alpha", "tv_weight": 2.0, "image_size": 64,
        "image_edge": "short",
        "style_scale": 2.0, "init_image": "noise", "seed": 1, "preserve_color": "luminance",
        "scales": 1, "iterations": 1, "tolerance": 0.5, "optimizer": "adam", "learning_rate": 0.5,
        "history_size": 5, "curvature_test": "absolute", "first_step": 2.0, "backtracks": 0,
        "spectral_exponent": 0.0, "color_preconditioner": False, "learn_preconditioner": False,
        "precision": "mixed", "first_metric": "measured",
    }  # fmt: skip
    for name, value in changes.items():
        seen.add(fingerprint(replace(base, **{name: value}), "digest"))
    assert len(seen) == len(changes) + 2
    names = {spec.name for spec in dataclasses.fields(base)} - {"weights", "weights_seed"}
    assert names == changes.keys()  # the weights' digest speaks for the other two


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"style_weight": 1, "tv_weight": 0}, {"style_weight": 1.0, "tv_weight": -0.0}),
        ({"style_layer_weights": "equal"}, {"style_layer_weights": (0.2,) * 5}),
        ({"content_layers": ("conv4_2", "conv1_1")}, {"content_layers": ("conv1_1", "conv4_2")}),
        (
            {"style_layers": ("conv3_1", "conv1_1"), "style_layer_weights": (2, 1)},
            {"style_layers": ("conv1_1", "conv3_1"), "style_layer_weights": (1.0, 2.0)},
        ),
        ({"weights": "random"}, {"weights_seed": 7}),
    ],
)
def test_settings_that_ask_for_the_same_have_one_fingerprint(one, other):
    one, other = StyleSettings(**one), StyleSettings(**other)
    assert fingerprint(one, "digest") == fingerprint(other, "digest")
    swapped = replace(other, style_layers=("conv1_1", "conv2_1"), style_layer_weights=(1, 2))
    again = replace(other, style_layers=("conv1_1", "conv2_1"), style_layer_weights=(2, 1))
    assert fingerprint(swapped, "digest") != fingerprint(again, "digest")


def test_a_whole_number_where_fractions_are_taken_is_a_fraction_everywhere():
    for spec in dataclasses.fields(StyleSettings):
        if type(spec.default) is float:
            changed = StyleSettings(**{spec.name: 1})
            assert json.dumps(getattr(changed, spec.name)) == "1.0"
    assert StyleSettings(style_layer_weights=(1, 0, 0, 0, 0)).style_layer_weights[0].hex()


def test_row_overrides_are_settings():
    assert set(ROW_OVERRIDES) <= {spec.name for spec in dataclasses.fields(StyleSettings)}


def test_settings_are_frozen_and_say_their_ranges():
    with pytest.raises(dataclasses.FrozenInstanceError):
        StyleSettings().seed = 3
    ranges = {spec.name: describe_range(spec) for spec in dataclasses.fields(StyleSettings)}
    assert ranges["pooling"] == "avg | max"
    assert ranges["image_size"] == "32 to 8192 px"
    assert ranges["learning_rate"] == "above 0, at most 100"


@pytest.mark.parametrize("name", ["title", "output", "manifest"])
def test_a_text_that_cannot_be_written_is_refused(name):
    with pytest.raises(SettingError, match=rf"^{name}: .* is not UTF-8; change it$"):
        JobSettings(**{"manifest": "m", "output": "o", name: "caf\udce9"})
