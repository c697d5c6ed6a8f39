"""The method in one call: from content and style images to stylised ones and their loss history."""

import functools
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method.color import finish_colors, prepare_colors
from pipeline.style.method.targets import blend_targets, style_targets
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import load_network
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.pairs import Done, History, Pair, Request


def stylize_pairs(
    network: VGG, pairs: Sequence[Pair], *, low_memory: bool = False
) -> tuple[list[Tensor], list[History]]:
    """Optimise pairs side by side. Returns each one's image (3, H, W) in [0, 1], and its history.

    Raises:
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory, even alone.
    """
    batcher = Batcher(network, len(pairs), low_memory=low_memory)
    for index, pair in enumerate(pairs):
        size = (pair.content_image.shape[1], pair.content_image.shape[2])
        batcher.submit(Request(index, size, pair.settings, functools.partial(_given, pair)))
    found: dict[Hashable, Done] = {}
    for key, answer in batcher.drain():
        if isinstance(answer, Exception):
            raise answer
        found[key] = answer
    done = [found[index] for index in range(len(pairs))]
    return [pair.image for pair in done], [pair.history for pair in done]


def _given(pair: Pair) -> Pair:
    return pair


def stylize(
    content_images: Tensor,
    style_images: Sequence[Tensor | Sequence[Tensor]] | Tensor,
    settings: StyleSettings | None = None,
    *,
    style_blend: Sequence[float] | None = None,
    network: VGG | None = None,
    low_memory: bool = False,
) -> tuple[Tensor, list[History]]:
    """Stylise a batch. Needs neither Ray nor storage.

    Args:
        content_images: (B, 3, H, W), RGB in [0, 1]. The result has their size
            (``settings.image_size`` is for those who load images).
        style_images: one for each content image: (B, 3, H', W'), or a sequence of B images
            (3, H', W'), or of B sequences of images that are to be blended.
        settings: the method's hyperparameters; the paper's by default.
        style_blend: weights of blended styles, the same for all samples; equal if not given.
        network: a network that is already loaded, on the device to be used.
        low_memory: compute activations again on the way back instead of keeping them.

    Returns:
        images (B, 3, H, W) in [0, 1], and one ``History`` per sample.

    Raises:
        WeightsError: the settings' weights cannot be had.
        NonFiniteError: a sample's loss is not finite at its start.
        torch.OutOfMemoryError: a sample does not fit into the device's memory, even alone.
    """
    settings = settings or StyleSettings()
    if len(style_images) != len(content_images):
        raise ValueError(f"{len(content_images)} content images, {len(style_images)} style images")
    network = network or load_network(settings).to(content_images.device)
    size = (content_images.shape[2], content_images.shape[3])
    pairs = []
    for content, given in zip(content_images, style_images, strict=True):
        styles = [given] if isinstance(given, Tensor) and given.ndim == 3 else list(given)
        seen, styles = prepare_colors(content, styles, settings.preserve_color)
        targets = [style_targets(network, style, size, settings) for style in styles]
        blend = style_blend or [1.0] * len(styles)
        pairs.append(Pair(seen, blend_targets(targets, blend), settings))
    images, histories = stylize_pairs(network, pairs, low_memory=low_memory)
    finished = [
        finish_colors(image, content, settings.preserve_color)
        for image, content in zip(images, content_images, strict=True)
    ]
    return torch.stack(finished), histories
