"""The method in one call: tensors in, stylised images and their loss histories out."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import check_network, load_network
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
    outcomes = optimise(Batcher(network, len(pairs), low_memory=low_memory), pairs)
    done = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        done.append(outcome)
    return [pair.image for pair in done], [pair.history for pair in done]


def optimise(
    batcher: Batcher,
    pairs: Sequence[Pair | Problem | Exception],
    after_tick: Callable[[Sequence[Hashable]], None] | None = None,
) -> list[Done | Exception]:
    """Optimise pairs together. What failed is passed on in its place.

    Args:
        batcher: used for these pairs alone. It is empty afterwards, however this ends.
        pairs: the pairs, or why there is none.
        after_tick: called after each tick with the pairs' keys in the batcher, in their order.

    Raises:
        RuntimeError: a CUDA error: the device can no longer be used.
    """
    # No key is used twice: a row's number could be that of another row in the batcher's next call.
    keys = [object() for _ in pairs]
    found: dict[Hashable, Done | Exception] = {}
    try:
        for key, pair in zip(keys, pairs, strict=True):
            if isinstance(pair, Exception):
                found[key] = pair
            else:
                batcher.submit(key, pair)
        while len(batcher):
            found |= dict(batcher.tick())
            if after_tick is not None:
                after_tick(keys)
    except BaseException:  # Ctrl-C too, which comes in the middle of anything
        batcher.abandon()
        raise
    return [found[key] for key in keys]


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
        SettingError: the network does not fit the settings.
        WeightsError: the settings' weights cannot be loaded.
        NonFiniteError: a pair's loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory even alone.
    """
    settings = settings or StyleSettings()
    if len(style_images) != len(content_images):
        raise ValueError(f"{len(content_images)} content images, {len(style_images)} style images")
    if network is None:
        network = load_network(settings).to(content_images.device)
    else:
        check_network(network, settings)
    pairs = []
    for content_image, given in zip(content_images, style_images, strict=True):
        blended = [given] if isinstance(given, Tensor) and given.ndim == 3 else list(given)
        pairs.append(Pair(content_image, blended, settings, style_blend))
    images, histories = stylize_pairs(network, pairs, low_memory=low_memory)
    return torch.stack(images).to(content_images.device), histories
