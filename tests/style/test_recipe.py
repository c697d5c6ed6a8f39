"""The recipe's ends: a finished picture as bytes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import Pair
from tests.conftest import picture

SIZE = (48, 32)


def pair(mode: str) -> Pair:
    settings = StyleSettings(weights="compact", preserve_color=mode)
    return Pair(picture(0, *SIZE), [picture(1, *SIZE)], settings)


@pytest.mark.parametrize("mode", ["none", "histogram", "luminance"])
def test_a_picture_comes_as_bytes_also_where_the_device_is_full(mode, monkeypatch):
    image, asked = picture(2, *SIZE), pair(mode)
    expected = recipe.to_pixels(recipe.finish(image, asked))
    found = recipe.finish_as_bytes(image.clone(), asked)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), expected)
    assert (np.abs(expected - recipe.to_pixels(image).astype(int)).max() > 8) == (
        mode == "luminance"
    )
    to_bytes, faults = recipe._to_bytes, [torch.OutOfMemoryError("no memory")]
    monkeypatch.setattr(
        recipe, "_to_bytes", lambda given: raised(faults) if faults else to_bytes(given)
    )
    if mode != "luminance":  # which is finished on the CPU in any case
        assert np.array_equal(recipe.finish_as_bytes(image, asked).numpy(), expected)
        assert not faults
    faults[:] = [RuntimeError("CUDA error: it is broken")]
    with pytest.raises(RuntimeError, match="broken"):
        recipe.finish_as_bytes(image, asked)


def raised(faults):
    raise faults.pop()


@pytest.mark.parametrize("mode", ["none", "histogram"])
def test_a_content_image_is_not_touched_again_for_colours_that_stay(mode, monkeypatch):
    monkeypatch.setattr(recipe, "to_tensor", lambda *_: pytest.fail("it was"))
    image = picture(2, *SIZE)
    assert recipe.finish(image, pair(mode)).equal(image)


def test_a_style_image_stays_where_it_is_once_its_targets_are_kept(monkeypatch):
    settings = StyleSettings(weights="compact", scales=1)
    network, moved = load_network(settings), []
    real = recipe.to_tensor
    monkeypatch.setattr(recipe, "to_tensor", lambda image, *to: moved.append(image) or real(image))
    cache = recipe.TargetCache(network, settings, capacity=2)
    content, style = picture(0, *SIZE), picture(1, *SIZE)
    asked = Pair(content, [style], settings, style_keys=["s"])
    first, second = (recipe.prepare(network, asked, cache) for _ in range(2))
    assert [image is style for image in moved] == [False, True, False]
    plain = recipe.prepare(network, asked)
    for problem in (first, second):
        assert problem.content_image.equal(content)
        assert problem.style_targets[0].mean.equal(plain.style_targets[0].mean)


@pytest.mark.parametrize("laid_out", [Tensor.contiguous, lambda image: image.permute(1, 2, 0)
                                      .contiguous().permute(2, 0, 1)])  # fmt: skip
def test_each_level_becomes_the_nearest_float_and_comes_back(laid_out):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    levels.flags.writeable = False  # as those of a block are
    image = recipe.to_tensor(levels)
    assert image.equal(torch.tensor(levels).permute(2, 0, 1) / 255)
    shaken = laid_out(image + torch.linspace(-0.49, 0.49, 256).reshape(16, 16) / 255)
    assert np.array_equal(recipe.to_pixels(shaken.clamp(0, 1)), levels)
    assert recipe.to_pixels(shaken.clamp(0, 1)).flags["C_CONTIGUOUS"]
