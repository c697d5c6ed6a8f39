"""``from pipeline import stylize, Stylizer``, without Ray."""

import io
import itertools
import math
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from ray.data.extensions import ArrowTensorArray

from pipeline import Stylizer, stylize
from pipeline.notebook import pictures
from pipeline.settings import SettingError, StyleSettings
from pipeline.style import recipe
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch
from pipeline.style.serving.lanes import Lane
from tests.conftest import image_bytes, picture


def pixels(seed, height=70, width=100):
    return (picture(seed, height, width).permute(1, 2, 0).numpy() * 255).round().astype("uint8")


@pytest.fixture
def quick_ones(weights_file):
    return {"weights": str(weights_file), "iterations": 4, "scales": 1}


def test_every_kind_comes_back_as_it_was(quick_ones):
    style = pixels(5)
    image = stylize(Image.fromarray(pixels(0)), style, image_size=64, **quick_ones).image
    levels = stylize(pixels(0), style, image_size=64, **quick_ones).image
    floats = stylize(pixels(0) / np.float32(255), style, image_size=64, **quick_ones).image
    assert image.size == (64, 48)
    assert np.array_equal(image, levels)
    assert floats.dtype == np.float32
    assert np.abs(floats * 255 - levels).max() <= 0.51
    results = stylize(torch.stack([picture(0, 48, 64), picture(1, 48, 64)]), style, **quick_ones)
    assert [result.image.shape for result in results] == [(3, 48, 64)] * 2
    assert results[0].image.dtype == torch.float32


@pytest.mark.usefixtures("small_scales")
def test_one_style_serves_many_contents_and_history_has_the_scales(quick_ones):
    contents = [Image.fromarray(pixels(seed)) for seed in (0, 1)]
    results = stylize(contents, pixels(5), image_size=192, **quick_ones | {"scales": 2})
    assert len(results) == 2
    history = results[0].history
    assert [size for size, _ in history.phases] == [(64, 96), (128, 192)]
    assert sum(count for _, count in history.phases) == len(history.total)
    assert str(history.total[0]) not in repr(results[0]), "hundreds of losses, in a notebook's cell"
    axes = history.plot()
    assert axes.get_yscale() == "log"


def test_plot_without_matplotlib_says_what_to_install(quick_ones, monkeypatch):
    history = stylize(pixels(0), pixels(5), image_size=64, **quick_ones).history
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        history.plot()


@pytest.mark.parametrize(
    ("content", "more", "error", "words"),
    [
        ("a.png", {}, TypeError, "content: a str is no picture"),
        (np.zeros((64, 64)), {}, ValueError, r"of shape \(64, 64\)"),
        (np.full((64, 64, 3), 2.0), {}, ValueError, "divide by 255"),
        ([], {}, ValueError, "no picture"),
        (Image.new("RGB", (8, 64)), {}, ValueError, "content: 8 x 64 px; the least edge is 16"),
        (np.zeros((20, 4000, 3)), {}, ValueError, "a picture of 4000 x 20 px .* proportions"),
        (picture(0, 64, 64), {"image_size": 64}, SettingError, "tensors keep their size"),
        (picture(0, 16, 64), {"padding": "reflect"}, ValueError, "'reflect' at least 32 px"),
        (pixels(0), {"iteration": 3}, SettingError, "is no setting"),
    ],
)
def test_what_is_refused(content, more, error, words):
    with pytest.raises(error, match=words):
        stylize(content, pixels(5), weights="compact", **more)


@pytest.fixture
def batch():
    """Three rows, one of which fails."""
    contents = np.empty(3, object)
    contents[:] = [image_bytes(0, 70, 100), b"no image", pixels(1)]
    styles = np.ascontiguousarray([pixels(5)] * 3)
    return {"id": np.arange(3), "content_image": contents, "style_image": styles}


def test_a_row_that_fails_does_not_end_its_batch(quick_ones, batch):
    found = Stylizer(image_size=64, **quick_ones)(batch)
    assert found["id"].tolist() == [0, 1, 2]
    assert [image is None for image in found["stylized_image"]] == [False, True, False]
    assert np.isnan(found["total_loss"]).tolist() == [False, True, False]
    assert "content_image: not an image" in found["error"][1]


def test_a_file_that_is_damaged_and_read_is_logged(quick_ones, batch, caplog):
    batch["content_image"][0] = image_bytes(0, 70, 100)[:-3]
    found = Stylizer(image_size=64, **quick_ones)(batch)
    assert found["stylized_image"][0] is not None
    said = "content_image: a picture was read, but its end is missing or broken"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_batch_may_be_of_any_of_ray_datas_formats(quick_ones, batch):
    batch["content_image"] = [image_bytes(0, 70, 100), b"no image", None]
    stylizer = Stylizer(image_size=64, **quick_ones)
    expected = stylizer(batch)
    files = list(expected["stylized_image"])
    frame = pd.DataFrame({**batch, "style_image": list(batch["style_image"])})
    assert list(stylizer(frame)["stylized_image"]) == files
    styles = pa.FixedShapeTensorArray.from_numpy_ndarray(batch["style_image"])
    with_null = pa.ExtensionArray.from_storage(
        styles.type, pa.array([None, *styles.storage.to_pylist()[1:]], styles.type.storage_type)
    )
    table = pa.table({**batch, "style_image": styles, "error": ["of an earlier stage"] * 3})
    pictures = ["content_image", "style_image"]
    columns = ["id", *pictures, "stylized_image", "total_loss", "error"]
    for kind in (styles, ArrowTensorArray.from_numpy(batch["style_image"])):  # Arrow's and Ray's
        found = stylizer(table.set_column(2, "style_image", kind))
        assert found["stylized_image"].to_pylist() == files
        assert found.column_names == columns
        assert found.schema.field("style_image").type == kind.type, "left as it was"
        assert found["error"].to_pylist() == list(expected["error"])
        assert found["total_loss"].null_count == 0
    found = stylizer(table.set_column(2, "style_image", with_null))
    assert found["stylized_image"].to_pylist() == [None, *files[1:]]


@pytest.mark.parametrize("where", ["enter", "tick"])
def test_after_an_interrupt_no_row_gets_anothers_picture(quick_ones, monkeypatch, where):
    """Ctrl-C comes in the middle of a tick; the next batch meets nothing of the last one."""
    wide, tall = (
        {"content_image": [pixels(seed, *size)], "style_image": [pixels(5)]}
        for seed, size in ((0, (70, 100)), (1, (100, 70)))
    )
    stylizer = Stylizer(image_size=64, slots=2, **quick_ones)
    expected = stylizer(tall)["stylized_image"][0]
    real = getattr(Lane, where)

    def interrupted(*given):
        real(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Lane, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            stylizer(wide)
    assert stylizer(tall)["stylized_image"][0] == expected
    assert not len(stylizer.batcher)


@pytest.mark.parametrize("step", ["style_targets", "finish_colors"])
def test_a_picture_that_fails_leaves_the_others_theirs(quick_ones, batch, monkeypatch, step):
    real, times = getattr(recipe, step), iter(range(9))

    def fails_once(*given):
        if next(times) == 0:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")
        return real(*given)

    quick_ones["preserve_color"] = "luminance" if step == "finish_colors" else "none"
    with monkeypatch.context() as patch:
        patch.setattr(recipe, step, fails_once)
        with pytest.warns(RuntimeWarning, match="1 of 2 pictures failed, .*ALLOC_FAILED"):
            failed, done = stylize([pixels(0), pixels(1)], pixels(5), image_size=64, **quick_ones)
    assert isinstance(failed.error, torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError, match="ALLOC_FAILED"):
        failed.image.save("it.png")
    assert done.error is None
    (expected,) = stylize([pixels(1)], pixels(5), image_size=64, **quick_ones)
    assert np.array_equal(done.image, expected.image)
    monkeypatch.setattr(recipe, step, lambda *_: 1 / 0)
    for content in (pixels(0), [pixels(0), pixels(1)]):
        with pytest.raises(ZeroDivisionError):
            stylize(content, pixels(5), image_size=64, **quick_ones)
    found = Stylizer(image_size=64, **quick_ones)(batch)
    assert [words.partition(":")[0] for words in found["error"]] == [
        "ZeroDivisionError", "RowError", "ZeroDivisionError"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pa.table])
def test_a_missing_column_is_named(quick_ones, kind):
    some = kind({"id": [1], "content_image": [b"x"]})
    with pytest.raises(
        KeyError, match=r"column style_image is missing; the batch has \['id', 'con"
    ):
        Stylizer(**quick_ones)(some)


def test_each_evaluation_gives_its_picture(quick_ones, capsys):
    seen = []

    def keep(step):
        seen.append((step.index, step.evaluation, step.image.size))

    contents = [Image.fromarray(pixels(0)), Image.fromarray(pixels(1))]
    results = stylize(contents, pixels(5), image_size=64, on_step=keep, progress=True, **quick_ones)
    counts = [len(result.history.total) for result in results]
    for index, count in enumerate(counts):
        steps = [evaluation for at, evaluation, _ in seen if at == index]
        assert steps == list(range(1, count))  # the last one is the result's
    assert {size for *_, size in seen} == {(64, 48)}
    assert f"{sum(counts)}/{sum(counts)}" in capsys.readouterr().err


@pytest.mark.usefixtures("small_scales")
def test_a_picture_on_a_coarse_scale_is_shown_with_its_final_colours(quick_ones):
    sizes = []
    settings = quick_ones | {"scales": 2, "preserve_color": "luminance"}
    stylize(
        pixels(0), pixels(5), image_size=192,
        on_step=lambda step: sizes.append(step.image.shape), **settings,
    )  # fmt: skip
    assert {(64, 96, 3), (128, 192, 3)} == {*sizes}


@pytest.mark.parametrize("content", [picture(0, 48, 64), Image.fromarray(pixels(0))], ids=type)
def test_pictures_on_their_way_can_be_kept(quick_ones, content):
    """The optimiser goes on in its own memory."""
    frames, steps = [], []

    def keep(step):
        frames.append(np.array(step.image))
        steps.append(step)

    more = {} if isinstance(content, torch.Tensor) else {"image_size": 64}
    stylize(content, pixels(5), on_step=keep, **more, **quick_ones)
    assert len(frames) > 2
    later = [np.array(step.image) for step in steps]
    assert all(np.array_equal(*each) for each in zip(frames, later, strict=True))
    assert not any(np.array_equal(*each) for each in itertools.pairwise(frames))


def test_a_network_that_does_not_fit_the_settings_is_refused(quick_ones):
    style = {**quick_ones, "image_size": 64}
    network = load_network(StyleSettings(weights=style["weights"]))
    for changes, message in (
        ({"content_layers": ("conv5_2",)}, "content_layers: the network has no conv5_2 and ends"),
        ({"style_layers": ("conv5_2",)}, "style_layers: the network has no conv5_2"),
        ({"pooling": "max"}, "pooling: the network was loaded with 'avg', this is 'max'"),
        ({"padding": "reflect"}, "padding: the network was loaded with 'zeros'"),
    ):
        with pytest.raises(SettingError, match=message):
            stylize(pixels(0), pixels(5), network=network, **style | changes)
        given = StyleSettings(**style | changes)
        with pytest.raises(SettingError, match=message):
            stylize_batch(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32), given,
                          network=network)  # fmt: skip
    assert stylize(pixels(0), pixels(5), network=network, **style).image.shape


def test_settings_may_be_lists_and_numpys_numbers(quick_ones):
    style = {**quick_ones, "image_size": 64}
    styles = [pixels(5), pixels(6)]
    plain = stylize(pixels(0), styles, style_blend=[0.7, 0.3], style_layers=("conv1_1",), **style)
    more = {"style_layers": ["conv1_1"], "seed": np.int64(0), "device": torch.device("cpu")}
    given = stylize(pixels(0), styles, style_blend=np.array([0.7, 0.3]), **more, **style)
    assert np.array_equal(plain.image, given.image)


def test_a_processs_own_default_type_changes_no_network():
    torch.set_default_dtype(torch.float64)
    try:
        assert load_network(StyleSettings(weights="compact")).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_a_notebook_nothing_is_shown(quick_ones, capsys):
    stylize(pixels(0), pixels(5), image_size=64, **quick_ones)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content", [Image.fromarray(pixels(0)), pixels(0), picture(0, 48, 64)], ids=type
)
def test_a_result_shows_itself(quick_ones, content):
    more = {} if isinstance(content, torch.Tensor) else {"image_size": 64}
    result = stylize(content, pixels(5), **quick_ones, **more)
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert np.array_equal(np.asarray(shown), np.asarray(pictures.to_pil(result.image)))


def test_several_styles_are_blended_with_weights(quick_ones):
    styles = [pixels(5), pixels(6)]
    one = {"image_size": 64, **quick_ones}
    first, second = stylize(pixels(0), styles, **one)
    halves = stylize(pixels(0), styles, style_blend=[1, 1], **one)
    assert np.array_equal(stylize(pixels(0), styles, style_blend=[1, 0], **one).image, first.image)
    assert not np.array_equal(halves.image, first.image)
    assert not np.array_equal(halves.image, second.image)
    several = stylize([pixels(0), pixels(1)], styles, style_blend=[1, 1], **one)
    assert np.array_equal(several[0].image, halves.image)
    for blend in ([1], [0, 0], [1, -1], [math.nan, 1], [math.inf, 1]):
        with pytest.raises(ValueError, match=r"style_blend: .* does not fit 2 styles"):
            stylize(pixels(0), styles, style_blend=blend, **one)
