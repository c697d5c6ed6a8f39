"""Settings of the method and its optimiser. Every field changes pixels."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.settings.fields import WEIGHT, SettingError, in_short, setting
from pipeline.settings.validation import check_value, in_one_form

CONVS_PER_BLOCK: Final = (2, 2, 4, 4, 4)
"""Convolutions in each block of VGG-19: arXiv 1409.1556, table 1, column E."""

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
"""Style settings that a row of the manifest may override, in a column of the same name."""


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """The method's hyperparameters, with the paper's names. Every field changes pixels.

    Raises:
        SettingError: on construction, if a value is out of range or does not fit another one.
    """

    weights: str = setting(
        "imagenet",
        "network weights: 'imagenet' (torchvision's VGG-19), 'compact' (a small network fitted to "
        "VGG-16, included), 'random' (untrained), or the path or URI of a .pth or .safetensors "
        "file of VGG-19 or VGG-16; append ':caffe' if it is for Caffe's input (BGR, 0 to 255)",
        group="network (changes pixels)",
    )
    weights_seed: int = setting(0, "seed of the 'random' weights", low=0, high=2**63 - 1)
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
        "w_l, the weight of each style layer: 'balanced' (all layers have the same share of the "
        "content image's style loss), 'authors' (1/N_l^2, as in the authors' code), 'equal' (1 "
        "over the number of layers, as in the paper), or one number per layer",
        low=0,
    )
    content_weight: float = setting(
        0.03,
        "weight of the content loss, in the unit that content_weight_unit names; a higher weight "
        "keeps more of the content",
        **WEIGHT,
    )
    content_weight_unit: Literal["relative", "alpha"] = setting(
        "relative",
        "relative: content_weight is relative to the content image's style loss; alpha: it is the "
        "paper's alpha",
    )
    style_weight: float = setting(1.0, "beta, the weight of the style loss", **WEIGHT)
    tv_weight: float = setting(
        0.25, "weight of total variation, relative to the content image's style loss", **WEIGHT
    )

    image_size: int = setting(
        512,
        "length of the result's edge chosen by image_edge",
        low=32,
        high=8192,
        unit="px",
        group="picture (changes pixels)",
    )
    image_edge: Literal["long", "short"] = setting("long", "the edge that image_size sets")
    style_scale: float = setting(
        1.0, "size of the style image relative to image_size", low=0.1, high=4
    )
    init_image: Literal["recolored", "content", "noise"] = setting(
        "recolored",
        "start of the optimisation: recolored (the content image with the style's colour mean and "
        "covariance), content (the content image) or noise (white noise, as in the paper)",
    )
    seed: int = setting(0, "seed of the white noise", low=0, high=2**63 - 1)
    preserve_color: Literal["none", "luminance", "histogram"] = setting(
        "none",
        "keep the content's colours. luminance: transfer luminance only; histogram: give the style "
        "image the content's colour statistics first",
    )

    precision: Literal["float32", "mixed"] = setting(
        "float32",
        "mixed: run the network in float16 on GPUs or bfloat16 on CPUs (there the last tenth or "
        "more of the evaluations are in float32); sums are always float32",
        group="optimisation (changes pixels)",
    )
    scales: int = setting(
        2, "sizes from coarse to fine, each half of the next; none is below 160 px", low=1, high=6
    )
    iterations: int = setting(
        60,
        "highest number of loss evaluations per pair, divided equally among the scales",
        low=1,
        high=100_000,
        unit="evaluations",
    )
    tolerance: float = setting(
        0.01,
        "stop a pair when its loss falls by less than this fraction over 20 evaluations; 0: never",
        low=0,
        high=1,
    )
    optimizer: Literal["lbfgs", "adam"] = setting("lbfgs", "optimiser that minimises the loss")
    learning_rate: float = setting(
        1.0, "step length of L-BFGS, or learning rate of Adam in grey levels", above=0, high=100
    )
    history_size: int = setting(10, "number of curvature pairs that L-BFGS keeps", low=1, high=200)
    curvature_test: Literal["cosine", "absolute"] = setting(
        "cosine",
        "which curvature pairs L-BFGS keeps. cosine: s.y > 1e-6 |s||y|; absolute: s.y > 1e-10, "
        "as torch",
    )
    first_step: float = setting(
        8.0, "largest change of a pixel in the first step; 0: torch's rule", low=0, unit="levels"
    )
    backtracks: int = setting(
        6,
        "how often a step that does not lower the loss may be shortened; 0: accept any step",
        low=0,
        high=30,
    )
    first_metric: Literal["spectral", "measured"] = setting(
        "spectral",
        "metric of L-BFGS's steps before a pair has learnt its own: spectral (as spectral_exponent "
        "and color_preconditioner say) or measured (from what other pairs learnt with 'compact'; "
        "these two then do nothing)",
    )
    spectral_exponent: float = setting(
        0.75, "exponent p of the 1/f^p preconditioner; 0: none", low=0, high=2
    )
    color_preconditioner: bool = setting(
        True, "precondition with the colour covariance of the style image"
    )
    learn_preconditioner: bool = setting(
        True, "learn a preconditioner for each pair from its first steps"
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
        """The deepest layer that a loss reads; the network is cut after it."""
        return max((*self.content_layers, *self.style_layers), key=LAYERS.index)


def canonical(settings: StyleSettings) -> dict[str, Any]:
    """Return every field that changes pixels, in a form that is equal for equal pictures.

    Layers are in the network's order with their w_l, and "equal" weights are numbers.
    """
    fields = dataclasses.asdict(settings)
    del fields["weights"]  # the digest identifies them: one file may have several names
    del fields["weights_seed"]
    if settings.first_metric == "spectral":  # as before there was this setting: outputs go on
        del fields["first_metric"]
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
    """Return 16 hex digits over all fields that change pixels, the weights and ``more``."""
    text = json.dumps([canonical(settings), weights_digest, *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
