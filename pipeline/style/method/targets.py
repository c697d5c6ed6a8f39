"""What style images ask for: Gram matrices and colours at each scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.network.vgg import VGG
from pipeline.style.optimizer.precondition import color_covariance

COARSEST = 160
"""Least shorter edge of a coarse scale, in pixels. Below it the coarse picture helps no more than
as much time spent on the fine one."""

Size = tuple[int, int]


def least_side(settings: StyleSettings) -> int:
    """Pixels that an image's sides must have. Of 16, VGG-19's fifth block sees one position, and
    ``reflect`` needs two: it repeats the neighbours of the outermost."""
    return 32 if settings.padding == "reflect" else 16


@dataclass(frozen=True)
class StyleTarget:
    """What a style image asks for, at one scale.

    grams: layer to A^l / M^l (N_l, N_l), a Gram matrix per position, so that a style of another
    size serves. mean, covariance: (3,) and (3, 3), of its colours.
    """

    grams: dict[str, Tensor]
    mean: Tensor
    covariance: Tensor


def scale_sizes(size: Size, scales: int) -> list[Size]:
    """Sizes (H, W) from coarse to fine; the last is ``size``. Sides are multiples of 16 px."""
    sizes = [size]
    while len(sizes) < scales:
        H, W = (max(16, round(side / 2 / 16) * 16) for side in sizes[0])
        if min(H, W) < COARSEST:
            break
        sizes.insert(0, (H, W))
    return sizes


def resize(images: Tensor, size: Size) -> Tensor:
    """(B, 3, H, W) to ``size``, bicubic, without aliasing."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


@torch.no_grad()
def style_target(network: VGG, style_image: Tensor, settings: StyleSettings) -> StyleTarget:
    """The target of one style image (3, H, W), RGB in [0, 1], on the network's device."""
    features = network(style_image[None], settings.style_layers)
    grams = {}
    for layer, activation in features.items():
        M = activation.shape[2] * activation.shape[3]
        grams[layer] = losses.gram_matrix(activation)[0] / M
    return StyleTarget(grams, style_image.mean(dim=(1, 2)), color_covariance(style_image))


def style_targets(
    network: VGG, style_image: Tensor, content_size: Size, settings: StyleSettings
) -> tuple[StyleTarget, ...]:
    """A target per scale; the style image (3, H, W) is made smaller with the content's scales."""
    targets = []
    least = least_side(settings)
    for size in scale_sizes(content_size, settings.scales):
        ratio = ((size[0] * size[1]) / (content_size[0] * content_size[1])) ** 0.5
        H, W = (max(least, round(side * ratio)) for side in style_image.shape[1:])
        small = resize(style_image[None], (H, W))[0].clamp(0, 1)
        targets.append(style_target(network, small, settings))
    return tuple(targets)


def blend_targets(
    targets: Sequence[tuple[StyleTarget, ...]], weights: Sequence[float]
) -> tuple[StyleTarget, ...]:
    """Style interpolation: the weighted mean of several styles' Gram matrices, per scale."""
    if len(targets) == 1:
        return targets[0]
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)

    def mean(tensors: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(tensors))
        return torch.einsum("s,s...->...", shares.to(stacked), stacked)

    return tuple(
        StyleTarget(
            {
                layer: mean([target.grams[layer] for target in at_scale])
                for layer in at_scale[0].grams
            },
            mean([target.mean for target in at_scale]),
            mean([target.covariance for target in at_scale]),
        )
        for at_scale in zip(*targets, strict=True)
    )
