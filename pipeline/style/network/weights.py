"""Sets of weights for VGG-19: where they come from, what they must look like, their common scale.

The paper's authors rescaled VGG-19 "such that the mean activation of each convolutional filter over
images and positions is equal to one" (Gatys et al., CVPR 2016, section 2). ``normalise`` does so
for any set of weights, so that one alpha and one beta serve them all.
"""

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Collection
from importlib import resources
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings import CONVS_PER_BLOCK, LAYERS, StyleSettings
from pipeline.style.network.calibration import calibration_pictures
from pipeline.style.network.conventions import (
    Convention,
    converted,
    convolutions,
    named_convention,
    names_in_file,
    split_convention,
)
from pipeline.style.network.vgg import (
    INPUT_MEAN,
    VGG,
    Padding,
    Pooling,
    StateDict,
    layers_up_to,
    tensor_names,
)

WIDTHS = (64, 128, 256, 512, 512)  # filters per block: arXiv 1409.1556, table 1

THREE_WAYS = (
    "Three ways to provide weights: (1) let torchvision download them once where there is a "
    "network (weights 'imagenet'), or copy its vgg19-*.pth into ~/.cache/torch/hub/checkpoints; "
    "(2) give a path or URI of a .pth or .safetensors file, local, on s3:// or elsewhere, with "
    "':caffe' behind it if it was made for Caffe's input; "
    "(3) weights 'compact': a small trained network that comes with this package; or 'random': "
    "untrained, it carries over palette and texture but no brush strokes."
)


COMPACT_SHA256 = "b01a32ba035c0765d7fd7a332631a49574eaf44c0f44ad29623c92914f4011c1"
"""Of ``compact.safetensors`` in this package; ``compact.md`` beside it is its model card."""

RARE = 0.25
"""Filters less active than this share of their layer's mean are scaled as if they had it."""


class WeightsError(ValueError):
    """Weights cannot be had or do not fit. The message says which file and which tensor."""


def imagenet_weights() -> StateDict:
    """torchvision's VGG19_Weights.IMAGENET1K_V1 from torch's cache, or downloaded into it.

    The hash is that of the download; a file in the cache is taken as it is, tensors only.

    Raises:
        WeightsError: neither is to be had, or the file in the cache cannot be loaded safely.
    """
    from torchvision.models import VGG19_Weights

    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        cached = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rpartition('/')[2]}"
        broken = f"; delete {cached}, it is broken" if Path(cached).exists() else ""
        raise WeightsError(
            f"weights 'imagenet': {weights.url} cannot be had ({reason[:60]}){broken}. {THREE_WAYS}"
        ) from error
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


def compact_weights() -> StateDict:
    """The small trained network in this package: a quarter of VGG-19's filters up to conv5_1.

    Raises:
        WeightsError: its file is missing, or is not the one that this version was made with.
    """
    file = resources.files("pipeline.style.network") / "compact.safetensors"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights 'compact': cannot be read ({error}). {THREE_WAYS}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != COMPACT_SHA256:
        raise WeightsError(
            f"weights 'compact': {file} has sha256 {found}, expected {COMPACT_SHA256}; "
            "install the package again"
        )
    return parse_weights(data, file.name)


def parse_weights(data: bytes, name: str) -> StateDict:
    """The convolutions' tensors of a file, by its own names, in float32.

    Nothing is unpickled but tensors.

    Args:
        data: the content of a .pth (``torch.save`` of a state dict) or .safetensors file.
        name: its path or URI; the ending tells the format, and messages name it.

    Raises:
        WeightsError: the file is neither, or holds something else than tensors.
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
            "Give a .safetensors file, or a .pth file that holds tensors only"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise WeightsError(
            f"weights {name}: holds no plain dictionary of tensors; save model.state_dict()"
        )
    return {key: tensor.float() for key, tensor in convolutions(state).items()}


def check_weights(
    state: StateDict, deepest_layer: str, name: str, used: Collection[str] = ()
) -> StateDict:
    """``state`` by VGG-19's names, cut after ``deepest_layer``, when each tensor is as it must be.

    Networks with fewer filters per layer pass: a layer's width is its weight's first dimension.

    Args:
        state: by the names of a file.
        used: the layers that losses read, if not the deepest alone.

    Raises:
        WeightsError: names the first tensor that is missing, misshapen or not finite.
    """
    names = names_in_file(state)
    network = "VGG-19" if LAYERS[-1] in names else "VGG-16"
    for layer in (*used, deepest_layer):
        if layer not in names:
            raise WeightsError(
                f"weights {name}: are those of {network}, which has no {layer}; choose other "
                "content_layers and style_layers"
            )
    known = {f"{own}.{part}" for own in names.values() for part in ("weight", "bias")}
    for key in state:
        if key not in known:
            raise WeightsError(f"weights {name}: tensor {key!r} is none of {network}'s features")
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
    """sha256 over names, shapes and float32 values: the same for .pth and .safetensors.

    Of Caffe's convention also over its name, as the same values mean another network then.
    """
    digest = hashlib.sha256(b"caffe" if convention == "caffe" else b"")
    for key in sorted(state):
        tensor = state[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def random_weights(seed: int, widths: tuple[int, ...] = WIDTHS) -> StateDict:
    """Untrained weights that transfer style, after He, Wang, Hopcroft (arXiv 1606.04801).

    Orthogonal filters times sqrt(2); each bias is set so that the filter is active at half of the
    positions of the calibration pictures. The same for the same seed on every machine up to float
    rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    state: StateDict = {}
    channels = 3
    for width, count, block in zip(widths, CONVS_PER_BLOCK, range(1, 6), strict=True):
        for conv in range(1, count + 1):
            weight_name, bias_name = tensor_names(f"conv{block}_{conv}")
            weight = torch.empty(width, channels, 3, 3)
            torch.nn.init.orthogonal_(weight, gain=math.sqrt(2), generator=generator)
            state[weight_name], state[bias_name] = weight, torch.zeros(width)
            channels = width

    def activate_half(layer: str, response: Tensor) -> tuple[Tensor, Tensor]:
        median = response.transpose(0, 1).flatten(1).median(dim=1).values
        scale = mean_activation(F.relu(response - median.view(1, -1, 1, 1)))
        return scale, -median

    # Replicated borders: with zeros the frame would take part in every median.
    return _rescale(state, LAYERS[-1], "avg", "replicate", activate_half)


def normalise(
    state: StateDict,
    deepest_layer: str,
    pooling: Pooling,
    padding: Padding,
    pictures: Tensor | None = None,
) -> StateDict:
    """``state`` with each filter's mean activation over ``pictures`` brought to 1.

    ``pictures`` (B, 3, H, W) are the calibration pictures if not given.

    Every layer's output stays what it was, up to one positive factor per filter: ReLU and pooling
    are positively homogeneous, so a filter's factor is folded into its weight and bias and taken
    back in the next layer's weight.
    """

    def by_mean(layer: str, response: Tensor) -> tuple[Tensor, Tensor]:
        scale = mean_activation(F.relu(response))
        return scale, torch.zeros_like(scale)

    return _rescale(state, deepest_layer, pooling, padding, by_mean, pictures)


def mean_activation(activation: Tensor) -> Tensor:
    """Mean over images and positions (N_l,), floored where a filter is (almost) never active."""
    mean = activation.mean(dim=(0, 2, 3))
    return mean.clamp_min(max(RARE * float(mean.mean()), 1e-12))


@torch.no_grad()
def _rescale(
    state: StateDict,
    deepest_layer: str,
    pooling: Pooling,
    padding: Padding,
    measure: Callable[[str, Tensor], tuple[Tensor, Tensor]],
    pictures: Tensor | None = None,
) -> StateDict:
    """Walk up the network; ``measure`` gives each layer's scale and what to add to its bias."""
    result: StateDict = {}
    network = VGG(state, deepest_layer=deepest_layer, pooling=pooling, padding=padding)
    if pictures is None:
        pictures = calibration_pictures()
    x = network.preprocess(pictures)
    below = torch.ones(3)
    layers = iter(network.layers)
    for module in network.features:
        if isinstance(module, torch.nn.Conv2d):
            layer = next(layers)
            response = module(x)
            scale, shift = measure(layer, response)
            weight_name, bias_name = tensor_names(layer)
            fold = below.view(1, -1, 1, 1) / scale.view(-1, 1, 1, 1)
            result[weight_name] = (module.weight * fold).contiguous()
            result[bias_name] = (module.bias + shift) / scale  # type: ignore[operator]
            x = response + shift.view(1, -1, 1, 1)
            below = scale
        else:
            x = module(x)
    return result | {name: state[name] for name in (INPUT_MEAN,) if name in state}


def load_weights(
    settings: StyleSettings,
    read: Callable[[str], bytes] | None = None,
    shown: str | None = None,
) -> tuple[StateDict, str]:
    """The weights that ``settings`` name, checked and normalised, and their digest.

    Args, Raises: as ``read_weights``.
    """
    state, digest = read_weights(settings, read, shown)
    # The compact network comes with a mean activation of 1 in each layer. One factor per filter
    # would undo the balance that its filters have from the teacher's.
    if settings.weights != "compact":
        state = normalise(state, settings.deepest_layer, settings.pooling, settings.padding)
    return state, digest


def read_weights(
    settings: StyleSettings,
    read: Callable[[str], bytes] | None = None,
    shown: str | None = None,
) -> tuple[StateDict, str]:
    """The weights that ``settings`` name, checked but as they are, and their digest.

    Args:
        settings: names the weights, and the layers, pooling and padding they are used with.
        read: gets the bytes of a path or URI; local files only if not given.
        shown: the path or URI as messages may show it: without credentials.

    Raises:
        WeightsError: they cannot be had or do not fit.
    """
    name, shown = settings.weights, shown or settings.weights
    convention: Convention | None = "torchvision"
    if name == "imagenet":
        state = imagenet_weights()
    elif name == "compact":
        state = compact_weights()
    elif name == "random":
        state = random_weights(settings.weights_seed)
    else:
        (name, convention), (shown, _) = split_convention(name), split_convention(shown)
        try:
            data = read(name) if read else Path(name).read_bytes()
        except OSError as error:
            message = f"weights {shown}: cannot be read ({error}). {THREE_WAYS}"
            raise WeightsError(message) from error
        state = parse_weights(data, shown)
        convention = convention or named_convention(state)
    digest = weights_digest(state, convention)
    used = (*settings.content_layers, *settings.style_layers)
    state = check_weights(state, settings.deepest_layer, shown, used)
    return converted(state, convention, shown), digest


def load_network(settings: StyleSettings) -> VGG:
    """The network of ``settings`` on the CPU, its weights normalised.

    Raises:
        WeightsError: the weights cannot be had or do not fit.
    """
    state, _ = load_weights(settings)
    return build_network(state, settings)


def build_network(state: StateDict, settings: StyleSettings) -> VGG:
    """The network of ``settings`` with weights from ``load_weights``."""
    return VGG(
        state,
        deepest_layer=settings.deepest_layer,
        pooling=settings.pooling,
        padding=settings.padding,
    )
