import dataclasses

import numpy as np
import pytest
import torch

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import blend_targets, scale_sizes, style_targets
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch, stylize_pairs
from pipeline.style.optimizer.precondition import color_covariance
from pipeline.style.recipe import Problem
from pipeline.style.serving.phases import NonFiniteError
from tests import reference
from tests.conftest import picture
from tests.style.network.plain_weights import equal_weights


def batch(*seeds, size=(64, 64)):
    return torch.stack([picture(seed, *size) for seed in seeds])


@pytest.fixture
def network(quick):
    return load_network(quick)


def test_total_loss_is_the_papers_for_styles_of_any_size(quick):
    settings = dataclasses.replace(
        quick,
        content_weight=3e-4,
        style_weight=2.0,
        content_layers=("conv4_2", "conv2_2"),
        style_layer_weights=(0.1, 0.2, 0.3, 0.25, 0.15),
    )
    network = load_network(settings).double()
    content, style, image = picture(0, 48, 64), picture(1, 80, 32), picture(2, 48, 64)
    target = style_targets(network, style.double(), (48, 64), settings)[0]
    objective = Objective(network, 1, settings)
    weights = equal_weights(3e-4, 2.0, settings)
    objective.put(0, content.double(), target, weights)
    loss, gradient = objective(image[None].double())

    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    pictures = (content.double().numpy(), style.double().numpy())

    def paper(x):
        arguments = (state, 3e-4, 2.0, weights.w, settings.content_layers)
        return reference.total(x, *pictures, *arguments)

    x = image.double().numpy()
    assert float(loss[0]) == pytest.approx(paper(x), rel=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.standard_normal(x.shape)
        numeric = (paper(x + 1e-6 * direction) - paper(x - 1e-6 * direction)) / 2e-6
        assert float((gradient[0].numpy() * direction).sum()) == pytest.approx(numeric, rel=1e-4)


@pytest.mark.parametrize("init_image", ["content", "noise"])
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.usefixtures("small_scales")
def test_loss_falls_and_the_history_says_so(quick, network, init_image, optimizer):
    settings = dataclasses.replace(
        quick, init_image=init_image, optimizer=optimizer, iterations=30, scales=2, image_size=128
    )
    content = batch(0, 1, size=(128, 128))
    images, histories = stylize_batch(content, batch(5, 6), settings, network=network)
    assert images.shape == content.shape
    assert images.min() >= 0
    assert images.max() <= 1
    for history in histories:
        assert history.total[-1] < 0.7 * history.total[0]
        assert history.evaluations == len(history.total) == 30
        assert history.total_loss == pytest.approx(
            history.content_loss + history.style_loss + history.tv_loss, rel=1e-5
        )
        assert set(history.layers) == {
            "content.conv4_2",
            *(f"style.conv{block}_1" for block in range(1, 6)),
        }


@pytest.mark.usefixtures("small_scales")
@pytest.mark.parametrize("padding", ["zeros", "replicate", "reflect"])
@pytest.mark.parametrize("style_size", [(48, 128), (32, 128), (16, 16), (33, 47)])
def test_a_small_style_serves_with_every_padding(quick, padding, style_size):
    """At the coarse scale it would be less than the fifth block can pad."""
    settings = dataclasses.replace(quick, padding=padding, scales=2, iterations=4)
    network = load_network(settings)
    for size, phases in ((128, 2), (32, 1)):
        content, style = batch(0, size=(size, size)), batch(5, size=style_size)
        _, (history,) = stylize_batch(content, style, settings, network=network)
        assert len(history.phases) == phases
        assert np.isfinite(history.total).all()
        assert history.evaluations == 4


def test_a_pair_gives_the_same_image_whatever_its_neighbours(quick, network):
    settings = dataclasses.replace(quick, init_image="noise", seed=3, iterations=4)
    together, _ = stylize_batch(batch(0, 1, 2), batch(5, 6, 7), settings, network=network)
    reordered, _ = stylize_batch(batch(2, 0, 9), batch(7, 5, 8), settings, network=network)
    alone, _ = stylize_batch(batch(1), batch(6), settings, network=network)
    assert torch.equal(together[0], reordered[1])  # one batch size: to the bit
    assert torch.allclose(together[1], alone[0], atol=0.02)


def test_noise_depends_on_the_seed_alone(quick, network):
    def run(seed):
        settings = dataclasses.replace(quick, init_image="noise", seed=seed)
        return stylize_batch(batch(0), batch(5), settings, network=network)[0]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_per_pair_settings_in_one_batch(quick, network):
    content, style = batch(0), picture(5, 64, 64)
    targets = style_targets(network, style, (64, 64), quick)
    settings = [
        dataclasses.replace(quick, iterations=3),
        dataclasses.replace(quick, iterations=8, content_weight=1.0),
    ]
    _, histories = stylize_pairs(network, [Problem(content[0], targets, s) for s in settings])
    assert [history.evaluations for history in histories] == [3, 8]
    assert histories[1].content_loss != histories[0].content_loss
    other = dataclasses.replace(quick, optimizer="adam", iterations=5)  # in a lane of its own
    _, histories = stylize_pairs(network, [Problem(content[0], targets, s) for s in (quick, other)])
    assert [history.evaluations for history in histories] == [8, 5]


def test_stops_when_the_loss_no_longer_falls(quick, network):
    settings = dataclasses.replace(quick, iterations=300, tolerance=0.2)
    _, (history,) = stylize_batch(batch(0), batch(5), settings, network=network)
    assert history.stop == "converged"
    assert 20 < history.evaluations < 300
    before, after = history.total[-21], history.total[-1]
    assert before - after < 0.2 * after


def test_style_interpolation_lies_between_its_styles(quick, network):
    styles = [style_targets(network, picture(s, 64, 64), (64, 64), quick) for s in (5, 6)]
    half = blend_targets(styles, [1.0, 1.0])
    quarter = blend_targets(styles, [3.0, 1.0])
    for layer, gram in half[0].grams.items():
        first, second = styles[0][0].grams[layer], styles[1][0].grams[layer]
        assert torch.allclose(gram, (first + second) / 2)
        assert torch.allclose(quarter[0].grams[layer], 0.75 * first + 0.25 * second)
    images, _ = stylize_batch(
        batch(0),
        [[picture(5, 64, 64), picture(6, 64, 64)]],
        quick,
        style_blend=[1, 0],
        network=network,
    )
    alone, _ = stylize_batch(batch(0), batch(5), quick, network=network)
    assert torch.allclose(images, alone, atol=1e-5)


def test_scales_halve_down_to_160_px():
    assert scale_sizes((1024, 768), 3) == [(256, 192), (512, 384), (1024, 768)]
    assert scale_sizes((1024, 768), 6)[0] == (256, 192)
    assert scale_sizes((320, 320), 2) == [(160, 160), (320, 320)]
    assert scale_sizes((288, 512), 4) == [(288, 512)]
    assert scale_sizes((512, 512), 1) == [(512, 512)]


@pytest.mark.parametrize("mode", ["luminance", "histogram"])
def test_colors_of_the_content_are_kept(quick, network, mode):
    settings = dataclasses.replace(quick, preserve_color=mode, iterations=20)
    content, style = batch(0), batch(5)
    plain, _ = stylize_batch(
        content, style, dataclasses.replace(settings, preserve_color="none"), network=network
    )
    kept, _ = stylize_batch(content, style, settings, network=network)

    def distance(image):
        mean = (image - content).mean(dim=(2, 3)).abs().sum()
        return float(mean + (color_covariance(image[0]) - color_covariance(content[0])).abs().sum())

    assert distance(kept) < distance(plain)
    if mode == "luminance":
        inside = ((kept[0] > 0.01) & (kept[0] < 0.99)).all(0)
        luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        chroma, expected = (x - (luma * x).sum(0, keepdim=True) for x in (kept[0], content[0]))
        assert torch.allclose(chroma[:, inside], expected[:, inside], atol=1e-4)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_pictures_of_one_color_are_handled(quick, network, shade):
    flat = torch.full((1, 3, 64, 64), shade)
    for mode in ("none", "luminance", "histogram"):
        settings = dataclasses.replace(quick, preserve_color=mode)
        for content, style in ((flat, batch(5)), (batch(0), flat), (flat, flat)):
            images, _ = stylize_batch(content, style, settings, network=network)
            assert torch.isfinite(images).all()


def test_a_loss_that_is_not_finite_is_an_error(quick, network):
    settings = dataclasses.replace(quick, style_weight=1e15, style_layer_weights=(3e38,) * 5)
    with pytest.raises(NonFiniteError, match="not finite at the start"):
        stylize_batch(batch(0), batch(5), settings, network=network)


@pytest.mark.parametrize("init_image", ["recolored", "content"])
def test_without_a_style_weight_the_picture_is_the_content(quick, network, init_image):
    settings = dataclasses.replace(quick, style_weight=0.0, init_image=init_image)
    images, (history,) = stylize_batch(batch(0), batch(5), settings, network=network)
    assert torch.equal(images, batch(0))
    assert history.total_loss == 0


def test_total_variation_smooths(quick, network):
    def roughness(weight):
        settings = dataclasses.replace(quick, tv_weight=100 * weight, iterations=30)
        images, (history,) = stylize_batch(batch(0), batch(5), settings, network=network)
        assert (history.tv_loss > 0) == (weight > 0)
        return float(losses.tv_loss(images)[0])

    assert roughness(1.0) < 0.8 * roughness(0.0)


def test_defaults_are_the_papers():
    settings = StyleSettings()
    assert settings.content_layers == ("conv4_2",)
    assert settings.style_layers == ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    assert settings.style_layer_weights == "balanced"
    assert (settings.pooling, settings.optimizer) == ("avg", "lbfgs")
