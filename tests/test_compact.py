"""The compact network that comes with the package."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from jobs.bench.inputs import ready
from jobs.train_compact import fitting
from pipeline.settings import StyleSettings
from pipeline.style.network import rescaling, weights
from pipeline.style.network.calibration import calibration_pictures
from pipeline.style.network.vgg import tensor_names
from pipeline.style.network.weight_files import check_weights, weights_digest
from pipeline.style.optimize import stylize_batch

SETTINGS = StyleSettings(weights="compact")


def test_it_is_vgg_16_with_few_filters_up_to_conv5_1() -> None:
    state = check_weights(weights.compact_weights(), "conv5_1", "compact")
    found = {layer: len(state[tensor_names(layer)[0]]) for layer in fitting.WIDTHS}
    assert found == fitting.WIDTHS
    assert len(state) == 2 * len(found)


def test_its_file_stays_small() -> None:
    file = resources.files("pipeline.style.network") / "compact.safetensors"
    assert len(file.read_bytes()) < 4_000_000


def test_a_tampered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(
        (resources.files("pipeline.style.network") / "compact.safetensors").read_bytes()
    )
    data[-1] ^= 1
    (tmp_path / "compact.safetensors").write_bytes(data)
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    with pytest.raises(weights.WeightsError, match=r"'compact'.*sha256"):
        weights.load_weights(SETTINGS)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    with pytest.raises(weights.WeightsError, match=r"'compact': cannot be read"):
        weights.load_weights(SETTINGS)


def test_each_layers_mean_activation_is_about_one() -> None:
    """Its filters keep their balance, as it counts in a style loss."""
    network = weights.load_network(SETTINGS)
    for layer, activation in network.activations(calibration_pictures()):
        assert 0.3 < float(activation.mean()) < 2, layer


def test_an_image_stylised_with_it_lowers_its_loss() -> None:
    content, style = calibration_pictures(64)[:2]
    settings = StyleSettings(weights="compact", content_weight=1e-7, iterations=30, scales=1)
    _, (history,) = stylize_batch(content[None], [style], settings)
    assert history.total_loss < 0.2 * history.total[0]


def test_its_digest_is_that_of_its_values() -> None:
    _, digest = weights.load_weights(SETTINGS)
    assert digest == weights_digest(weights.compact_weights())


def test_at_the_widths_of_vgg_16_it_gives_what_it_gives() -> None:
    network = weights.load_network(SETTINGS)
    wide, _ = ready("wide", "cpu")
    picture = calibration_pictures(64)[:1]
    expected = dict(network.activations(picture))
    for layer, found in wide.activations(picture):
        own = expected[layer]
        assert found.shape[1] == rescaling.WIDTHS[int(layer[4]) - 1]
        repeated = own[:, torch.arange(found.shape[1]) % own.shape[1]]
        torch.testing.assert_close(found, repeated, rtol=1e-3, atol=1e-3)
