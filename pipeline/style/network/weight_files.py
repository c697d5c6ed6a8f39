"""Reading a weight file: parsing it safely, checking its tensors, and its digest."""

import hashlib
import io
from collections.abc import Collection

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.settings import LAYERS
from pipeline.style.network.conventions import Convention, convolutions, names_in_file
from pipeline.style.network.vgg import StateDict, layers_up_to, tensor_names


class WeightsError(ValueError):
    """Weights that cannot be loaded or do not fit; the message names the file and the tensor."""


def parse_weights(data: bytes, name: str) -> StateDict:
    """Read the convolutions' tensors from a file, under the file's own names, in float32.

    Only tensors are unpickled.

    Args:
        data: the content of a .pth (``torch.save`` of a state dict) or .safetensors file.
        name: its path or URI; the ending tells the format, and messages show it.

    Raises:
        WeightsError: the file is neither, or holds anything else than tensors.
    """
    try:
        if name.endswith(".safetensors"):
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and safetensors raise many kinds on a bad file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"weights {name}: not a state dict that can be loaded safely ({reason[:200]}). "
            "Give a .safetensors file, or a .pth file that holds only tensors"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise WeightsError(
            f"weights {name}: not a plain dictionary of tensors; save model.state_dict()"
        )
    return {key: tensor.float() for key, tensor in convolutions(state).items()}


def check_weights(
    state: StateDict, deepest_layer: str, name: str, used: Collection[str] = ()
) -> StateDict:
    """Check each tensor, rename it as in VGG-19 and drop the layers after ``deepest_layer``.

    Networks with fewer filters per layer pass: a layer's width is its weight's first dimension.

    Args:
        state: tensors under the file's own names.
        deepest_layer: the last layer to keep.
        name: the path or URI that messages show.
        used: the layers that the losses read; ``deepest_layer`` always counts as one.

    Raises:
        WeightsError: a tensor is missing, has the wrong shape or is not finite, or VGG-16 lacks a
            layer that is used. The message names the first such tensor or layer.
    """
    names = names_in_file(state)
    network = "VGG-19" if LAYERS[-1] in names else "VGG-16"
    for layer in (*used, deepest_layer):
        if layer not in names:
            raise WeightsError(
                f"weights {name}: this is a {network}, which has no {layer}; choose other "
                "content_layers and style_layers"
            )
    known = {f"{own}.{part}" for own in names.values() for part in ("weight", "bias")}
    for key in state:
        if key not in known:
            raise WeightsError(f"weights {name}: tensor {key!r} is not one of {network}'s")
    cut: StateDict = {}
    channels = 3
    for layer in (layer for layer in layers_up_to(deepest_layer) if layer in names):
        weight_name, bias_name = f"{names[layer]}.weight", f"{names[layer]}.bias"
        for key in (weight_name, bias_name):
            if key not in state:
                raise WeightsError(
                    f"weights {name}: tensor {key!r} ({layer}) is missing; the settings use layers "
                    f"up to {deepest_layer}"
                )
        weight, bias = state[weight_name], state[bias_name]
        if weight.ndim != 4 or tuple(weight.shape[1:]) != (channels, 3, 3) or not len(weight):
            raise WeightsError(
                f"weights {name}: tensor {weight_name!r} ({layer}) has shape "
                f"{tuple(weight.shape)}; expected (filters, {channels}, 3, 3)"
            )
        channels = weight.shape[0]
        if tuple(bias.shape) != (channels,):
            raise WeightsError(
                f"weights {name}: tensor {bias_name!r} ({layer}) has shape {tuple(bias.shape)}; "
                f"expected ({channels},)"
            )
        for key, tensor in ((weight_name, weight), (bias_name, bias)):
            if not torch.isfinite(tensor).all():
                raise WeightsError(f"weights {name}: tensor {key!r} ({layer}) is not finite")
        cut |= dict(zip(tensor_names(layer), (weight, bias), strict=True))
    return cut


def weights_digest(state: StateDict, convention: Convention | None = None) -> str:
    """Return the SHA-256 over names, shapes and float32 values, in hexadecimal.

    It is the same for a .pth and a .safetensors file. Caffe's convention changes it, because the
    same values then make another network.
    """
    digest = hashlib.sha256(b"caffe" if convention == "caffe" else b"")
    for key in sorted(state):
        tensor = state[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
