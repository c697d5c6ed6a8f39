"""Style targets at each scale, and the noise that an image may start from."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.style.method.targets import style_target, style_targets
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch
from tests.conftest import picture


def test_a_style_is_made_smaller_with_the_content(quick):
    network, settings = load_network(quick), dataclasses.replace(quick, scales=3)
    style = picture(5, 96, 160)
    found = style_targets(network, style, (640, 640), settings)
    for target, size in zip(found, [(24, 40), (48, 80), (96, 160)], strict=True):
        small = F.interpolate(style[None], size=size, mode="bicubic", antialias=True)[0]
        expected = style_target(network, small, settings)
        for layer, gram in expected.grams.items():
            assert torch.allclose(target.grams[layer], gram, rtol=1e-4, atol=1e-6), (layer, size)
        assert torch.allclose(target.covariance, expected.covariance, atol=1e-6)


def test_white_noise_is_grey_in_the_mean_and_stays_as_it_is_for_ever(quick):
    settings = dataclasses.replace(quick, init_image="noise", iterations=1, seed=5)
    content = picture(0, 64, 96)
    (noise,), (history,) = stylize_batch(content[None], [picture(1, 64, 64)], settings)
    assert history.evaluations == 1, "a step was taken: it is no longer the noise"
    expected = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise, (0.5 + 0.25 * expected).clamp(0, 1))
    values = noise.double().numpy()
    assert abs(values.mean() - 0.5) < 0.01
    within = np.abs(values - 0.5) < 0.25  # one deviation
    assert abs(within.mean() - 0.683) < 0.01
    for axis in range(3):
        neighbours = np.diff(values, axis=axis)
        assert neighbours.var() > 1.95 * values.var(), "not white"
