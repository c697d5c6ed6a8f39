"""The two ways to keep the content's colours, by the statistics of the results."""

import numpy as np
import pytest
import torch

from pipeline.style.method.color import finish_colors, prepare_colors
from tests.conftest import picture

Y = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def content():
    return 0.55 + 0.5 * (picture(3, 40, 50) - 0.5)


@pytest.fixture
def style():
    """An image whose colours differ from the content's in mean, variance and covariance."""
    mixing = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, -0.1], [0.0, 0.1, 0.1]])
    return 0.35 + torch.einsum("ij,jhw->ihw", mixing, picture(4, 30, 60) - 0.5)


def test_the_styles_luminance_has_the_contents_mean_and_deviation(content, style):
    seen, (matched,) = prepare_colors(content, [style], "luminance")
    of_content, of_style = (np.einsum("c,chw->hw", Y, x.double().numpy()) for x in (content, style))
    assert of_content.std() > 1.3 * of_style.std()
    for channel in seen.double().numpy():
        assert channel == pytest.approx(of_content, abs=1e-6)
    expected = (of_style - of_style.mean()) / of_style.std() * of_content.std() + of_content.mean()
    for channel in matched.double().numpy():
        assert channel == pytest.approx(expected.clip(0, 1), abs=1e-5)


def test_the_styles_colors_have_the_contents_mean_and_covariance(content, style):
    seen, (matched,) = prepare_colors(content, [style], "histogram")
    assert torch.equal(seen, content)
    assert 0 < float(matched.min()) < float(matched.max()) < 1, "cut off"
    wanted, before, found = (x.flatten(1).double().numpy() for x in (content, style, matched))
    assert found.mean(axis=1) == pytest.approx(wanted.mean(axis=1), abs=1e-5)
    assert np.cov(found) == pytest.approx(np.cov(wanted), rel=1e-3, abs=1e-5)
    assert np.cov(before) != pytest.approx(np.cov(wanted), rel=0.5, abs=1e-5)


def test_a_result_has_its_own_luminance_and_the_contents_hues(content, style):
    stylized = style[:, :, :50].mean(dim=0, keepdim=True).expand(3, 30, 50)
    found = finish_colors(stylized, content[:, :30], "luminance").double().numpy()
    before, hues = stylized.double().numpy(), content[:, :30].double().numpy()
    assert np.einsum("c,chw->hw", Y, found) == pytest.approx(before[0], abs=1e-5)
    differences = found - np.einsum("c,chw->hw", Y, found)  # what I and Q contribute
    assert differences == pytest.approx(hues - np.einsum("c,chw->hw", Y, hues), abs=1e-5)
