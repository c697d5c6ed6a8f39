import io
import pickle

import pytest
import safetensors.torch
import torch

from pipeline.settings import LAYERS, StyleSettings
from pipeline.style.network import weights
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import WeightsError
from tests.conftest import NARROW, picture


def as_pth(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_pth_and_safetensors_have_one_digest(narrow_state):
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    by_pth = weights.parse_weights(as_pth({**narrow_state, **classifier}), "a.pth")
    by_tensors = weights.parse_weights(safetensors.torch.save(narrow_state), "a.safetensors")
    assert weights.weights_digest(by_pth) == weights.weights_digest(by_tensors)
    changed = {**by_pth, "features.0.bias": by_pth["features.0.bias"] + 1}
    assert weights.weights_digest(changed) != weights.weights_digest(by_pth)


class Evil:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pickle.dumps({"features.0.weight": Evil()}), "evil.pth"),
        (as_pth({"features.0.weight": "text"}), "text.pth"),
        (as_pth([torch.zeros(1)]), "list.pth"),
        (b"", "empty.pth"),
        (b"no tensors", "bad.safetensors"),
    ],
)
def test_files_that_hold_no_plain_tensors_are_refused(data, name):
    with pytest.raises(WeightsError, match=name):
        weights.parse_weights(data, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.5.weight": None}, r"'features.5.weight' \(conv2_1\) is missing"),
        ({"features.5.bias": None}, r"'features.5.bias' \(conv2_1\) is missing"),
        ({"features.5.weight": torch.zeros(6, 5, 3, 3)}, r"shape \(6, 5, 3, 3\); expected"),
        ({"features.5.weight": torch.zeros(6, 4, 5, 5)}, r"shape \(6, 4, 5, 5\); expected"),
        ({"features.5.bias": torch.zeros(7)}, r"shape \(7,\); expected \(6,\)"),
        ({"features.5.bias": torch.full((6,), torch.nan)}, "is not finite"),
        ({"features.99.weight": torch.zeros(1)}, "'features.99.weight' is none of"),
    ],
)
def test_the_wrong_tensor_is_named(narrow_state, change, message):
    state = {k: t for k, t in {**narrow_state, **change}.items() if t is not None}
    with pytest.raises(WeightsError, match=message):
        weights.check_weights(state, "conv3_1", "some file")


def test_layers_above_the_deepest_are_not_needed(narrow_state):
    state = {k: t for k, t in narrow_state.items() if int(k.split(".")[1]) <= 10}
    cut = weights.check_weights(state, "conv3_1", "x")
    assert len(cut) == 10
    with pytest.raises(WeightsError, match=r"up to conv3_2"):
        weights.check_weights(state, "conv3_2", "x")


def test_random_weights_depend_on_the_seed_alone():
    first, again, other = (weights.random_weights(seed, NARROW) for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])
    torch.manual_seed(5)  # the global generator has no part in it
    assert torch.equal(
        weights.random_weights(0, NARROW)["features.0.weight"], first["features.0.weight"]
    )


def test_random_weights_are_vgg19s_shape():
    state = weights.random_weights(0)
    assert state["features.28.weight"].shape == (512, 512, 3, 3)
    weights.check_weights(state, "conv5_4", "random")


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_normalising_scales_each_filter_by_one_positive_factor(narrow_state, pooling):
    generator = torch.Generator().manual_seed(3)
    raw = {
        key: tensor
        * (1 + 9 * torch.rand(len(tensor), generator=generator).view(-1, *[1] * (tensor.ndim - 1)))
        for key, tensor in narrow_state.items()
    }
    state = weights.normalise(raw, "conv5_4", pooling, "zeros")
    options = {"deepest_layer": "conv5_4", "pooling": pooling}
    image = picture(4, 64, 64)[None]
    before, after = VGG(raw, **options)(image, LAYERS), VGG(state, **options)(image, LAYERS)
    for layer in LAYERS:
        old, new = (found[layer].transpose(0, 1).flatten(1) for found in (before, after))
        factor = (old * new).sum(1, keepdim=True) / (old * old).sum(1, keepdim=True).clamp_min(
            1e-30
        )
        assert (factor >= 0).all()
        assert torch.allclose(new, factor * old, rtol=1e-3, atol=1e-4 * float(new.max()))


def test_normalised_filters_have_mean_one_over_the_calibration_pictures(narrow_state):
    state = weights.normalise(narrow_state, "conv5_1", "avg", "zeros")
    network = VGG(state, deepest_layer="conv5_1")
    pictures = weights.calibration_pictures()
    for layer, activation in network(pictures, ["conv1_1", "conv3_1", "conv5_1"]).items():
        mean = activation.mean(dim=(0, 2, 3))
        assert ((mean - 1).abs() < 1e-3).float().mean() > 0.7, layer  # all but the rare ones
        assert (mean < 1.001).all()


def test_a_filter_that_is_never_active_stays_finite(narrow_state):
    dead = {**narrow_state, "features.0.bias": torch.full((4,), -100.0)}
    state = weights.normalise(dead, "conv2_1", "avg", "zeros")
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_missing_weights_name_the_three_ways(tmp_path):
    with pytest.raises(WeightsError, match="Three ways"):
        weights.load_weights(StyleSettings(weights=str(tmp_path / "none.pth")))


def test_imagenet_weights_come_from_torchs_cache_by_torchvisions_loader(monkeypatch):
    # The real loader, its server taken away: what it raises becomes one clear line.
    from torchvision.models import VGG19_Weights

    asked = {}

    def no_network(*args, **kwargs):
        asked.update(kwargs)
        raise OSError("no route to host")

    monkeypatch.setattr(type(VGG19_Weights.IMAGENET1K_V1), "get_state_dict", no_network)
    with pytest.raises(WeightsError, match=r"vgg19-.*\.pth cannot be had \(no route to host\)"):
        weights.load_weights(StyleSettings())
    assert asked["check_hash"] is True


class Trap:
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

    # torchvision's own download and check, from a file:// URL: the name promises another sha256.
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
