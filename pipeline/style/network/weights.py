"""Loading the weights that the settings name: where each set comes from, and the network itself."""

import hashlib
import pickle
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch

from pipeline.redaction import redact, redact_text
from pipeline.settings import SettingError, StyleSettings
from pipeline.style.network.conventions import (
    Convention,
    converted,
    named_convention,
    split_convention,
)
from pipeline.style.network.rescaling import normalise, random_weights
from pipeline.style.network.vgg import VGG, StateDict
from pipeline.style.network.weight_files import (
    WeightsError,
    check_weights,
    parse_weights,
    weights_digest,
)

__all__ = [
    "WeightsError",
    "build_network",
    "compact_weights",
    "imagenet_weights",
    "load_network",
    "load_weights",
    "read_weights",
]

THREE_WAYS = (
    "Three ways to provide weights: (1) 'imagenet': torchvision downloads its weights once where "
    "there is a network, or you copy its vgg19-*.pth into ~/.cache/torch/hub/checkpoints; "
    "(2) a path or URI of a .pth or .safetensors file, local, on s3:// or elsewhere, followed by "
    "':caffe' if it was trained on Caffe's input; "
    "(3) 'compact', a small trained network that comes with this package, or 'random', which is "
    "untrained: it transfers palette and texture but no brush strokes."
)
"""The advice at the end of messages about weights that cannot be loaded."""

COMPACT_SHA256 = "b01a32ba035c0765d7fd7a332631a49574eaf44c0f44ad29623c92914f4011c1"
"""SHA-256 of ``compact.safetensors`` in this folder; its model card is ``compact.md``."""


def imagenet_weights() -> StateDict:
    """Load torchvision's VGG19_Weights.IMAGENET1K_V1 from torch's cache, or download them there.

    A download's hash is checked. A file that is already in the cache is not hashed, but only
    tensors are unpickled from it.

    Raises:
        WeightsError: the download failed, or the cached file cannot be loaded safely.
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
            f"weights 'imagenet': {weights.url} cannot be loaded ({reason[:60]}){broken}. "
            f"{THREE_WAYS}"
        ) from error
    return {name: tensor for name, tensor in state.items() if name.startswith("features.")}


def compact_weights() -> StateDict:
    """Load the small trained network of this package; see ``compact.md``.

    Raises:
        WeightsError: its file is missing, or has another SHA-256 than ``COMPACT_SHA256``.
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


def load_weights(
    settings: StyleSettings,
    read: Callable[[str], bytes] | None = None,
    shown: str | None = None,
) -> tuple[StateDict, str]:
    """Return the weights that the settings name, checked and normalised, and their digest.

    The arguments and errors are those of ``read_weights``.
    """
    state, digest = read_weights(settings, read, shown)
    # Each layer of the compact network already has a mean activation of 1. One factor per filter
    # would undo the balance between its filters, which comes from the teacher.
    if settings.weights != "compact":
        state = normalise(state, settings.deepest_layer, settings.pooling, settings.padding)
    return state, digest


def read_weights(
    settings: StyleSettings,
    read: Callable[[str], bytes] | None = None,
    shown: str | None = None,
) -> tuple[StateDict, str]:
    """Return the weights that the settings name, checked but not normalised, and their digest.

    Args:
        settings: the weights, and the layers, pooling and padding they are used with.
        read: reads the bytes of a path or URI; by default only local files can be read.
        shown: the path or URI without credentials, for messages; by default that of the settings.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
    """
    name, shown = settings.weights, shown or redact(settings.weights)
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
            why = error.strerror or redact_text(str(error))
            message = f"weights {shown}: cannot be read ({why}). {THREE_WAYS}"
            raise WeightsError(message) from error
        state = parse_weights(data, shown)
        convention = convention or named_convention(state)
    digest = weights_digest(state, convention)
    used = (*settings.content_layers, *settings.style_layers)
    state = check_weights(state, settings.deepest_layer, shown, used)
    return converted(state, convention, shown), digest


def load_network(settings: StyleSettings) -> VGG:
    """Build the network that the settings describe, on the CPU, with normalised weights.

    Raises:
        WeightsError: the weights cannot be loaded or do not fit.
    """
    state, _ = load_weights(settings)
    return build_network(state, settings)


def build_network(state: StateDict, settings: StyleSettings) -> VGG:
    """Build the network that the settings describe from weights of ``load_weights``."""
    return VGG(
        state,
        deepest_layer=settings.deepest_layer,
        pooling=settings.pooling,
        padding=settings.padding,
    )


def check_network(network: VGG, settings: StyleSettings) -> None:
    """See that a network that was loaded before has the layers, pooling and padding of settings.

    Raises:
        SettingError: names what differs.
    """
    for name in ("content_layers", "style_layers"):
        for layer in getattr(settings, name):
            if layer not in network.layers:
                raise SettingError(
                    f"{name}: the network has no {layer} and ends at {network.layers[-1]}; load it "
                    f"with the same {name}"
                )
    for name in ("pooling", "padding"):
        had, asked = getattr(network, name), getattr(settings, name)
        if had != asked:
            raise SettingError(f"{name}: the network was loaded with {had!r}, this is {asked!r}")
