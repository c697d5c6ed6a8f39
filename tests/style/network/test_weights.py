"""Weights that cannot be loaded: from a path, from torch's cache, by a download."""

import pytest
import torch

from pipeline.settings import StyleSettings
from pipeline.style.network import weights
from pipeline.style.network.weights import WeightsError


def test_missing_weights_name_the_three_ways(tmp_path):
    with pytest.raises(WeightsError, match="Three ways"):
        weights.load_weights(StyleSettings(weights=str(tmp_path / "none.pth")))


def test_imagenet_weights_come_from_torchs_cache_by_torchvisions_loader(monkeypatch):
    # The real loader without a network: its error becomes one clear line.
    from torchvision.models import VGG19_Weights

    asked = {}

    def no_network(*args, **kwargs):
        asked.update(kwargs)
        raise OSError("no route to host")

    monkeypatch.setattr(type(VGG19_Weights.IMAGENET1K_V1), "get_state_dict", no_network)
    with pytest.raises(WeightsError, match=r"vgg19-.*\.pth cannot be loaded \(no route to host\)"):
        weights.load_weights(StyleSettings())
    assert asked["check_hash"] is True


class Trap:
    """Ends the process when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    "content", [{"features.0.weight": Trap()}, b"", b"no archive"], ids=["trap", "empty", "text"]
)
def test_nothing_in_torchs_cache_is_unpickled_but_tensors(monkeypatch, tmp_path, content):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(
        WeightsError, match=r"delete .*vgg19-dcbb9e9d\.pth, it is broken.*Three ways"
    ):
        weights.imagenet_weights()


def test_imagenet_weights_with_a_wrong_hash_are_refused(monkeypatch, tmp_path):
    from torchvision.models import VGG19_Weights

    # torchvision's own download and check, from a file:// URL whose name promises another sha256.
    source = tmp_path / "vgg19-dcbb9e9d.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, source)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    entry = VGG19_Weights.IMAGENET1K_V1.value
    url = entry.url
    object.__setattr__(entry, "url", source.as_uri())  # a frozen dataclass
    try:
        with pytest.raises(WeightsError, match="invalid hash value"):
            weights.imagenet_weights()
    finally:
        object.__setattr__(entry, "url", url)


def test_a_copy_of_imagenets_weights_in_torchs_cache_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    file.parent.mkdir(parents=True)
    state = {"features.0.weight": torch.ones(2), "classifier.0.weight": torch.ones(3)}
    torch.save(state, file)
    found = weights.imagenet_weights()
    assert found.keys() == {"features.0.weight"}
    assert torch.equal(found["features.0.weight"], torch.ones(2))


def test_compact_weights_that_are_broken_or_missing_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(weights.resources, "files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"'compact': cannot be read \(.*Three ways"):
        weights.compact_weights()
    (tmp_path / "compact.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"has sha256 .* expected .*; install the package again"):
        weights.compact_weights()
