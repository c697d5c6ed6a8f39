"""The method in one call: tensors in, stylised images and their loss histories out."""

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
    """Optimise pairs together, those of one size in one batch.

    Args:
        network: VGG, on the device to be used.
        pairs: as described by the user (``Pair``) or prepared already (``Problem``).
        low_memory: compute activations again in the backward pass instead of keeping them.

    Returns:
        each pair's image (3, H, W) in [0, 1] and its history, in the order of ``pairs``.

    Raises:
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory even alone.
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
    """Stylise a batch of content images, without Ray and without storage.

    Args:
        content_images: (B, 3, H, W), RGB in [0, 1]. The results have the same size;
            ``settings.image_size`` has no effect here.
        style_images: one entry for each content image: a tensor (B, 3, H', W'), a sequence of B
            images (3, H', W'), or a sequence of B sequences of images to be blended.
        settings: the method's settings; ``StyleSettings()`` if not given.
        style_blend: weights of the blended styles, the same for all pairs; equal if not given.
        network: a network that is already loaded, on the device to be used. If not given, the
            settings' weights are loaded onto the content images' device.
        low_memory: compute activations again in the backward pass instead of keeping them.

    Returns:
        images (B, 3, H, W) in [0, 1], and one ``History`` for each.

    Raises:
        ValueError: the numbers of content images and style images differ.
        WeightsError: the settings' weights cannot be loaded.
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory even alone.
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
