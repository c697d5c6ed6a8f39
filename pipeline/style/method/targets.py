"""The targets of a pair: its style images' Gram matrices A^l and colours, at each scale."""

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
"""Smallest shorter edge of a coarse scale, in pixels.

Below it, time is better spent on the full size."""

Size = tuple[int, int]
"""Height and width in pixels."""


def least_side(settings: StyleSettings) -> int:
    """Return the smallest side of an image, in pixels, that the network can process.

    16 pixels leave one position in VGG-19's fifth block. The padding ``reflect`` needs two,
    because it copies the neighbour of the outermost position.
    """
    return 32 if settings.padding == "reflect" else 16


@dataclass(frozen=True)
class StyleTarget:
    """What one style image, or a blend of several, asks for at one scale.

    Attributes:
        grams: style layer to A^l / M^l (N_l, N_l). Per position, the Gram matrix does not depend
            on the style image's size.
        mean: the mean colour (3,), RGB in [0, 1].
        covariance: the covariance of the colours (3, 3).
    """

    grams: dict[str, Tensor]
    mean: Tensor
    covariance: Tensor


def scale_sizes(size: Size, scales: int) -> list[Size]:
    """Return at most ``scales`` sizes (H, W) from coarse to fine; the last is ``size``.

    Each is half of the next one, with sides rounded to multiples of 16 pixels. Sizes with a side
    below ``COARSEST`` are left out.
    """
    sizes = [size]
    while len(sizes) < scales:
        H, W = (max(16, round(side / 2 / 16) * 16) for side in sizes[0])
        if min(H, W) < COARSEST:
            break
        sizes.insert(0, (H, W))
    return sizes


def resize(images: Tensor, size: Size) -> Tensor:
    """Return images (B, 3, H, W) resized to ``size``, bicubic with antialiasing.

    Bicubic interpolation overshoots: values may leave [0, 1].
    """
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


@torch.no_grad()
def style_target(network: VGG, style_image: Tensor, settings: StyleSettings) -> StyleTarget:
    """Return the target of one style image (3, H, W), RGB in [0, 1], on the network's device."""
    features = network(style_image[None], settings.style_layers)
    grams = {}
    for layer, activation in features.items():
        M = activation.shape[2] * activation.shape[3]
        grams[layer] = losses.gram_matrix(activation)[0] / M
    return StyleTarget(grams, style_image.mean(dim=(1, 2)), color_covariance(style_image))


def style_targets(
    network: VGG, style_image: Tensor, content_size: Size, settings: StyleSettings
) -> tuple[StyleTarget, ...]:
    """Return the targets of a style image, one per scale, from coarse to fine.

    The style image is made smaller in the same ratio as the content image.

    Args:
        network: VGG.
        style_image: (3, H', W'), RGB in [0, 1], on the network's device.
        content_size: the content image's full size.
        settings: the layers and the number of scales.
    """
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
    """Return the weighted mean of several styles' targets, per scale (style interpolation).

    Args:
        targets: for each style image its targets from coarse to fine, all of the same scales.
        weights: one per style image; only their ratios count.
    """
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
