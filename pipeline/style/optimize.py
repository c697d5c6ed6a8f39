"""The method in one call: from content and style images to stylised ones and their loss history."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import Pair, Problem
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.phases import Done, History


def stylize_pairs(
    network: VGG, pairs: Sequence[Pair | Problem], *, low_memory: bool = False
) -> tuple[list[Tensor], list[History]]:
    """Optimise pairs side by side. Returns each one's image (3, H, W) in [0, 1], and its history.

    Raises:
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory, even alone.
    """
    batcher = Batcher(network, len(pairs), low_memory=low_memory)
    for index, pair in enumerate(pairs):
        batcher.submit(index, pair)
    found: dict[Hashable, Done] = {}
    for key, outcome in batcher.drain():
        if isinstance(outcome, Exception):
            raise outcome
        found[key] = outcome
    done = [found[index] for index in range(len(pairs))]
    return [pair.image for pair in done], [pair.history for pair in done]


def stylize_batch(
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
            (``settings.image_size`` is for callers who load images).
        style_images: one for each content image: (B, 3, H', W'), or a sequence of B images
            (3, H', W'), or of B sequences of images to be blended.
        settings: the method's hyperparameters; the defaults if None.
        style_blend: weights of blended styles, the same for all pairs; equal if None.
        network: a network that is already loaded, on the device to be used.
        low_memory: compute activations again in the backward pass instead of keeping them.

    Returns:
        Images (B, 3, H, W) in [0, 1], and one ``History`` per pair.

    Raises:
        WeightsError: the settings' weights cannot be had.
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory, even alone.
    """
    settings = settings or StyleSettings()
    if len(style_images) != len(content_images):
        raise ValueError(f"{len(content_images)} content images, {len(style_images)} style images")
    network = network or load_network(settings).to(content_images.device)
    pairs = []
    for content_image, given in zip(content_images, style_images, strict=True):
        blended = [given] if isinstance(given, Tensor) and given.ndim == 3 else list(given)
        pairs.append(Pair(content_image, blended, settings, style_blend))
    images, histories = stylize_pairs(network, pairs, low_memory=low_memory)
    return torch.stack(images).to(content_images.device), histories
