"""alpha, beta and w_l: how the settings' shares become the weights of a pair's loss."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.style.method.balance import ALIKE, loss_weights
from pipeline.style.method.objective import Objective
from pipeline.style.method.targets import style_target, style_targets
from pipeline.style.network.vgg import VGG, tensor_names
from pipeline.style.network.weights import load_network
from pipeline.style.optimize import stylize_batch
from tests import reference
from tests.conftest import picture

CONTENT, STYLE = picture(0, 48, 64), picture(1, 80, 32)


@pytest.fixture
def network(quick):
    return load_network(quick).double()


def paper(network, content, style):
    """Return E_l of the content image and half the square sum of P^l, by the reference."""
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    seen, painted = (reference.vgg19(x.double().numpy(), state) for x in (content, style))
    E = {}
    for layer in (f"conv{block}_1" for block in range(1, 6)):
        F, S = (found[layer].reshape(len(found[layer]), -1) for found in (seen, painted))
        E[layer] = reference.style_layer(F, reference.gram(S) * F.shape[1] / S.shape[1])
    return E, 0.5 * np.square(seen["conv4_2"]).sum()


def weigh(network, settings, content=CONTENT, style=STYLE):
    target = style_target(network, style.double(), settings)
    return loss_weights(network, content.double(), target, settings)


def test_balanced_layers_begin_at_the_same_share_and_alpha_counts_from_the_content(quick, network):
    E, energy = paper(network, CONTENT, STYLE)
    weights = weigh(network, dataclasses.replace(quick, content_weight=0.3, style_weight=7.0))
    assert weights.layers == pytest.approx({f"style.{layer}": E[layer] for layer in E}, rel=1e-6)
    assert [weights.w[layer] * E[layer] for layer in E] == pytest.approx([0.2] * 5, rel=1e-6)
    assert weights.alpha == pytest.approx(0.3 / energy, rel=1e-6)
    assert weights.beta == 7.0


def test_authors_equal_and_numbers_are_what_they_say(quick, network):
    E, energy = paper(network, CONTENT, STYLE)
    N = dict(zip(E, (4, 6, 8, 8, 8), strict=True))
    for chosen, w in (
        ("authors", {layer: 1 / N[layer] ** 2 for layer in E}),
        ("equal", dict.fromkeys(E, 0.2)),
        ((1.0, 0.0, 2.0, 3.0, 4.0), dict(zip(E, (1.0, 0.0, 2.0, 3.0, 4.0), strict=True))),
    ):
        settings = dataclasses.replace(
            quick, style_layer_weights=chosen, tv_weight=0.25, style_weight=2.0
        )
        weights = weigh(network, settings)
        assert weights.w == w
        whole = sum(w[layer] * E[layer] for layer in E)
        assert weights.alpha == pytest.approx(settings.content_weight * whole / energy, rel=1e-6)
        assert weights.tv == pytest.approx(0.5 * whole / CONTENT.numel(), rel=1e-6)


def test_alpha_may_be_given_as_in_the_paper(quick, network):
    settings = dataclasses.replace(quick, content_weight=1e-3, content_weight_unit="alpha")
    assert weigh(network, settings).alpha == 1e-3


def test_a_network_of_another_scale_asks_for_the_same_picture(quick):
    """A layer's activations may be a thousand times as large, and its loss counts no more."""
    network = load_network(dataclasses.replace(quick, padding="replicate"))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for layer, factor in (("conv2_1", 1000.0), ("conv2_2", 1e-3)):
        weight, bias = tensor_names(layer)
        state[weight] *= factor
        if factor > 1:
            state[bias] *= factor
    scaled = VGG(state, deepest_layer="conv5_1", padding="replicate")
    settings = dataclasses.replace(quick, padding="replicate", iterations=6, tolerance=0.0)
    images = [
        stylize_batch(CONTENT[None], [STYLE], settings, network=each)[0]
        for each in (network, scaled)
    ]
    assert torch.allclose(*images, atol=1e-3)
    plain = dataclasses.replace(settings, style_layer_weights="equal")
    images = [
        stylize_batch(CONTENT[None], [STYLE], plain, network=each)[0] for each in (network, scaled)
    ]
    assert not torch.allclose(*images, atol=1e-3)


def test_alike_pictures_and_flat_ones_have_weights_of_their_own(quick, network):
    flat = torch.full_like(CONTENT, 0.5)
    for content, style in ((CONTENT, CONTENT), (flat, flat), (flat, STYLE), (CONTENT, flat)):
        weights = weigh(network, quick, content, style)
        values = [weights.alpha, *weights.w.values()]
        assert np.isfinite(values).all()
        assert min(values) > 0
    E, _ = paper(network, CONTENT, torch.zeros_like(CONTENT))
    alike = weigh(network, quick, CONTENT, CONTENT)
    assert alike.layers["style.conv1_1"] == pytest.approx(0, abs=1e-9 * E["conv1_1"])
    # w_l is that of E_l = ALIKE times the content image's E_l with A = 0.
    target = style_target(network, CONTENT.double(), quick)
    for layer, w in alike.w.items():
        without = target.grams[layer].square().sum() / (4 * len(target.grams[layer]) ** 2)
        assert w == pytest.approx(1 / (5 * ALIKE * float(without)), rel=1e-6)


def test_a_layer_of_weight_0_is_left_out(quick):
    layers = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")
    chosen = {"style_layer_weights": (2.0, 1.0, 0.0, 3.0, 1.0)}
    fewer = {"style_layers": layers[:2] + layers[3:], "style_layer_weights": (2.0, 1.0, 3.0, 1.0)}
    found = [
        stylize_batch(CONTENT[None], [STYLE], dataclasses.replace(quick, **changes))
        for changes in (chosen, fewer)
    ]
    (one, (first,)), (other, (second,)) = found
    assert torch.allclose(one, other, atol=1e-5)
    assert first.total == pytest.approx(second.total, rel=1e-5)


def test_a_slot_has_its_own_pairs_weights(quick, network):
    """At the content image each pair's loss is the sum of its own shares, which is 1."""
    quick = dataclasses.replace(quick, tv_weight=0.0)
    objective = Objective(network, 2, quick)
    contents = [CONTENT.double(), picture(7, 48, 64).double()]
    for slot, (content, style) in enumerate(
        zip(contents, (STYLE, picture(9, 48, 64)), strict=True)
    ):
        target = style_targets(network, style.double(), (48, 64), quick)[-1]
        objective.put(slot, content, target, loss_weights(network, content, target, quick))
    loss, _ = objective(torch.stack(contents))
    assert loss.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


def test_the_history_tells_the_weights_and_each_layers_start(quick):
    network = load_network(quick)
    _, (history,) = stylize_batch(CONTENT[None], [STYLE], quick, network=network)
    weights = weigh(network.double(), quick)
    assert history.weights.alpha == pytest.approx(weights.alpha, rel=1e-4)
    assert history.weights.layers == pytest.approx(weights.layers, rel=1e-4)
    again = sum(w * history.layers[f"style.{layer}"] for layer, w in history.weights.w.items())
    assert history.style_loss == pytest.approx(again, rel=1e-6)
    content = history.weights.alpha * history.layers["content.conv4_2"]
    assert history.content_loss == pytest.approx(content, rel=1e-6)
