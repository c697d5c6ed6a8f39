"""The paper's hyperparameters and the optimiser's. Every field changes pixels."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.settings.fields import WEIGHT, SettingError, in_short, setting
from pipeline.settings.validation import check_value, in_one_form

CONVS_PER_BLOCK: Final = (2, 2, 4, 4, 4)  # VGG-19: arXiv 1409.1556, table 1, column E


LAYERS: Final[tuple[str, ...]] = tuple(
    f"conv{block}_{index}"
    for block, count in enumerate(CONVS_PER_BLOCK, 1)
    for index in range(1, count + 1)
)
"""VGG-19's convolutions as the paper names them: conv1_1 ... conv5_4."""


ROW_OVERRIDES: Final = (
    "content_weight",
    "style_weight",
    "image_size",
    "iterations",
    "seed",
    "preserve_color",
)
"""The style settings that a manifest column of the same name sets for its row."""


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """The method's hyperparameters, with the paper's names. Every field changes pixels.

    Raises:
        SettingError: on construction, when a value is out of its range.
    """

    weights: str = setting(
        "imagenet",
        "VGG-19 weights: 'imagenet' (torchvision), 'compact' (few filters, fitted to VGG-16, "
        "in this package), 'random' (untrained, seeded by weights_seed), or a path or URI of a "
        ".pth or .safetensors file of VGG-19 or VGG-16, with ':caffe' behind it if it was made for "
        "Caffe's input (BGR, 0 to 255)",
        group="network (changes pixels)",
    )
    weights_seed: int = setting(0, "seed of 'random' weights", low=0, high=2**63 - 1)
    pooling: Literal["avg", "max"] = setting("avg", "pooling between the blocks of VGG-19")
    padding: Literal["zeros", "replicate", "reflect"] = setting(
        "zeros", "padding of the convolutions; VGG-19 was trained with zeros"
    )

    content_layers: tuple[str, ...] = setting(
        ("conv4_2",), "layers of the content loss", group="losses (change pixels)"
    )
    style_layers: tuple[str, ...] = setting(
        ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"), "layers of the style loss"
    )
    style_layer_weights: Literal["balanced", "authors", "equal"] | tuple[float, ...] = setting(
        "balanced",
        "w_l of each style layer: 'balanced' (each layer is the same share of the content image's "
        "style loss), 'authors' (1/N_l^2, as the paper's authors' code), 'equal' (equal shares of "
        "1, as the paper's experiments), or a number for each layer",
        low=0,
    )
    content_weight: float = setting(
        0.03,
        "weight of the content loss, relative to the content image's style loss; more keeps more "
        "of the content",
        **WEIGHT,
    )
    content_weight_unit: Literal["relative", "alpha"] = setting(
        "relative",
        "relative: content_weight counts in the content image's style loss; alpha: it is the "
        "paper's alpha itself",
    )
    style_weight: float = setting(1.0, "beta, the weight of the style loss", **WEIGHT)
    tv_weight: float = setting(
        0.25, "weight of the total variation, relative to the content image's style loss", **WEIGHT
    )

    image_size: int = setting(
        512,
        "length of the edge named by image_edge, in the result",
        low=32,
        high=8192,
        unit="px",
        group="picture (changes pixels)",
    )
    image_edge: Literal["long", "short"] = setting("long", "the edge that image_size measures")
    style_scale: float = setting(
        1.0, "size of the style image relative to image_size", low=0.1, high=4
    )
    init_image: Literal["recolored", "content", "noise"] = setting(
        "recolored",
        "where the optimisation starts: the content image in the style's colours (mean and "
        "covariance), the content image, or white noise as in the paper",
    )
    seed: int = setting(0, "seed of the white noise", low=0, high=2**63 - 1)
    preserve_color: Literal["none", "luminance", "histogram"] = setting(
        "none",
        "keep the content's colours: transfer luminance only, or first give the style image the "
        "content's colour statistics",
    )

    precision: Literal["float32", "mixed"] = setting(
        "float32",
        "mixed: the network in float16 on GPUs; in bfloat16 on CPUs, the last tenth or more in "
        "float32. Sums are in float32",
        group="optimisation (changes pixels)",
    )
    scales: int = setting(
        2, "coarse-to-fine: sizes, each half of the next, none below 160 px", low=1, high=6
    )
    iterations: int = setting(
        60,
        "most loss evaluations per image, shared equally by the scales",
        low=1,
        high=100_000,
        unit="evaluations",
    )
    tolerance: float = setting(
        0.01,
        "stop an image when its loss fell by less than this share over 20 evaluations; 0: never",
        low=0,
        high=1,
    )
    optimizer: Literal["lbfgs", "adam"] = setting("lbfgs", "how the loss is minimised")
    learning_rate: float = setting(
        1.0, "step length of L-BFGS, or Adam's rate in grey levels", above=0, high=100
    )
    history_size: int = setting(10, "curvature pairs that L-BFGS keeps", low=1, high=200)
    curvature_test: Literal["cosine", "absolute"] = setting(
        "cosine",
        "which curvature pairs L-BFGS keeps: s.y > 1e-6 |s||y|, or torch's s.y > 1e-10",
    )
    first_step: float = setting(
        8.0, "largest change of a pixel in the first step; 0: torch's rule", low=0, unit="levels"
    )
    backtracks: int = setting(
        6,
        "how often a step that does not lower the loss is shortened; 0: any step is taken",
        low=0,
        high=30,
    )
    spectral_exponent: float = setting(
        0.75, "p of the 1/f^p preconditioner; 0: none", low=0, high=2
    )
    color_preconditioner: bool = setting(
        True, "precondition by the colour covariance of the style image"
    )
    learn_preconditioner: bool = setting(
        True, "learn each pair's own preconditioner from its first steps"
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            check_value(spec, value)
            object.__setattr__(self, spec.name, in_one_form(spec, value))
        for name in ("content_layers", "style_layers"):
            chosen: tuple[str, ...] = getattr(self, name)
            unknown = [layer for layer in chosen if layer not in LAYERS]
            if unknown:
                raise SettingError(
                    f"{name}: {in_short(unknown[0])} is no layer of VGG-19; choose from "
                    f"{LAYERS[0]} ... {LAYERS[-1]}"
                )
            if len(set(chosen)) != len(chosen):
                raise SettingError(f"{name}: {','.join(chosen)} names a layer twice")
        if not self.content_layers and not self.style_layers:
            raise SettingError("content_layers and style_layers are both empty: nothing to match")
        weights = self.style_layer_weights
        if isinstance(weights, tuple) and len(weights) != len(self.style_layers):
            raise SettingError(
                f"style_layer_weights: {len(weights)} weights for {len(self.style_layers)} "
                "style_layers; give one for each"
            )
        if not self.weights:
            raise SettingError("weights: '' is empty; give 'imagenet', 'random', a path or a URI")

    @property
    def deepest_layer(self) -> str:
        """The last layer that any loss reads; the network is cut after it."""
        return max((*self.content_layers, *self.style_layers), key=LAYERS.index)


def canonical(settings: StyleSettings) -> dict[str, Any]:
    """Every field that changes pixels, equal for settings that ask for the same: layers in the
    network's order with their w_l, and these as numbers."""
    fields = dataclasses.asdict(settings)
    del fields["weights"]  # the digest says it better: one file may have several names
    del fields["weights_seed"]
    layers, count = settings.style_layers, len(settings.style_layers)
    weights = settings.style_layer_weights
    if weights == "equal":
        weights = (1.0 / max(count, 1),) * count
    if isinstance(weights, tuple):
        of_layer = dict(zip(layers, weights, strict=True))
        fields["style_layer_weights"] = [of_layer[layer] for layer in LAYERS if layer in of_layer]
    for name in ("content_layers", "style_layers"):
        fields[name] = [layer for layer in LAYERS if layer in fields[name]]
    return fields


def fingerprint(settings: StyleSettings, weights_digest: str, *more: str | int) -> str:
    """16 hex digits over every field that changes pixels, the weights themselves, and ``more``."""
    text = json.dumps([canonical(settings), weights_digest, *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
