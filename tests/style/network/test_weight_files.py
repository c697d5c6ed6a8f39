"""Weight files: what is parsed, what is refused, and their digest."""

import io
import pickle

import pytest
import safetensors.torch
import torch

from pipeline.style.network.weight_files import (
    WeightsError,
    check_weights,
    parse_weights,
    weights_digest,
)


def as_pth(state) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_pth_and_safetensors_have_one_digest(narrow_state):
    classifier = {"classifier.0.weight": torch.zeros(2, 2)}
    by_pth = parse_weights(as_pth({**narrow_state, **classifier}), "a.pth")
    by_tensors = parse_weights(safetensors.torch.save(narrow_state), "a.safetensors")
    assert weights_digest(by_pth) == weights_digest(by_tensors)
    changed = {**by_pth, "features.0.bias": by_pth["features.0.bias"] + 1}
    assert weights_digest(changed) != weights_digest(by_pth)


class Evil:
    """Runs code when it is unpickled."""

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
        parse_weights(data, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.5.weight": None}, r"'features.5.weight' \(conv2_1\) is missing"),
        ({"features.5.bias": None}, r"'features.5.bias' \(conv2_1\) is missing"),
        ({"features.5.weight": torch.zeros(6, 5, 3, 3)}, r"shape \(6, 5, 3, 3\); expected"),
        ({"features.5.weight": torch.zeros(6, 4, 5, 5)}, r"shape \(6, 4, 5, 5\); expected"),
        ({"features.5.bias": torch.zeros(7)}, r"shape \(7,\); expected \(6,\)"),
        ({"features.5.bias": torch.full((6,), torch.nan)}, "is not finite"),
        ({"features.99.weight": torch.zeros(1)}, "'features.99.weight' is not one of"),
    ],
)
def test_the_wrong_tensor_is_named(narrow_state, change, message):
    state = {k: t for k, t in {**narrow_state, **change}.items() if t is not None}
    with pytest.raises(WeightsError, match=message):
        check_weights(state, "conv3_1", "some file")


def test_layers_above_the_deepest_are_not_needed(narrow_state):
    state = {k: t for k, t in narrow_state.items() if int(k.split(".")[1]) <= 10}
    cut = check_weights(state, "conv3_1", "x")
    assert len(cut) == 10
    with pytest.raises(WeightsError, match=r"up to conv3_2"):
        check_weights(state, "conv3_2", "x")
