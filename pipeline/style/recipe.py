"""The recipe of one pair, from its decoded pictures to the finished one.

    Pair -- prepare --> Problem -- optimise (``serving``) --> image -- finish --> picture

The style actor, the notebook, the dry run and ``optimize`` all follow it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.hardware.device_faults import out_of_memory
from pipeline.style.method.color import finish_colors, prepare_colors
from pipeline.style.method.targets import (
    Size,
    StyleTarget,
    blend_targets,
    resize,
    style_targets,
)
from pipeline.style.network.vgg import VGG

Pixels = npt.NDArray[np.uint8]
"""A picture as bytes, (H, W, 3), RGB."""

Picture = Pixels | Tensor
"""A picture as bytes (H, W, 3), or as a tensor (3, H, W), RGB in [0, 1]."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair:
    """One content image, its style images, and the settings: what a manifest row asks for.

    Attributes:
        content_image: decoded and resized; the result has its size.
        style_images: decoded and resized, one or several that are blended.
        settings: the pair's own.
        style_blend: a weight for each style image; equal weights if None.
        style_keys: a digest of each style image's pixels, under which a ``TargetCache`` knows them.
    """

    content_image: Picture
    style_images: Sequence[Picture]
    settings: StyleSettings
    style_blend: Sequence[float] | None = None
    style_keys: Sequence[str] | None = None

    @property
    def size(self) -> Size:
        """(H, W) of the content image."""
        if isinstance(self.content_image, Tensor):
            return self.content_image.shape[1], self.content_image.shape[2]
        return self.content_image.shape[0], self.content_image.shape[1]


@dataclass(frozen=True)
class Problem:
    """What is optimised for a pair: its content image, and a style target for each scale.

    Attributes:
        content_image: (3, H, W), RGB in [0, 1], as the network sees it, on the network's device.
        style_targets: coarse to fine.
        settings: the pair's own.
    """

    content_image: Tensor
    style_targets: tuple[StyleTarget, ...]
    settings: StyleSettings

    @property
    def size(self) -> Size:
        """(H, W) of the content image."""
        return self.content_image.shape[1], self.content_image.shape[2]


class TargetCache:
    """Keep the style targets of the latest styles and content sizes.

    Args:
        network: computes the targets.
        settings: the job's.
        capacity: most targets that are kept; the least recently used one leaves first.
    """

    def __init__(self, network: VGG, settings: StyleSettings, capacity: int) -> None:
        self.network, self.settings, self.capacity = network, settings, capacity
        self.targets: OrderedDict[tuple[str, Size], tuple[StyleTarget, ...]] = OrderedDict()
        self.hits, self.misses = 0, 0

    def get(self, key: str, style_image: Picture, size: Size) -> tuple[StyleTarget, ...]:
        """Return the targets of a style image for a content image of ``size``.

        Args:
            key: digest of the style image's pixels.
            style_image: moved to the network's device only if it is needed.
            size: (H, W).
        """
        if (key, size) in self.targets:
            self.hits += 1
            self.targets.move_to_end((key, size))
        else:
            self.misses += 1
            image = to_tensor(style_image, self.network.device)
            self.targets[key, size] = style_targets(self.network, image, size, self.settings)
            if len(self.targets) > self.capacity:
                self.targets.popitem(last=False)
        return self.targets[key, size]


def prepare(network: VGG, pair: Pair, cache: TargetCache | None = None) -> Problem:
    """Move a pair to the network's device, prepare its colours, and compute its style targets."""
    device, settings = network.device, pair.settings
    content_image, blend = to_tensor(pair.content_image, device), pair.style_blend
    # With colours preserved a style image depends on the content image: there is nothing to keep.
    if cache is not None and pair.style_keys is not None and settings.preserve_color == "none":
        keyed = zip(pair.style_keys, pair.style_images, strict=True)
        targets = [cache.get(key, style_image, pair.size) for key, style_image in keyed]
    else:
        content_image, style_images = prepare_colors(
            content_image,
            [to_tensor(style_image, device) for style_image in pair.style_images],
            settings.preserve_color,
        )
        targets = [
            style_targets(network, style_image, pair.size, settings) for style_image in style_images
        ]
    blend = [1.0] * len(targets) if blend is None else [*map(float, blend)]
    return Problem(content_image, blend_targets(targets, blend), settings)


def finish(image: Tensor, pair: Pair) -> Tensor:
    """Return the optimised image (3, H, W) with its final colours, on the CPU.

    A finished picture must not be lost because the GPU's memory is full. The image may also be one
    of a coarser scale.
    """
    if pair.settings.preserve_color != "luminance":  # the others are done before, in ``prepare``
        return image.cpu()
    size = (image.shape[1], image.shape[2])
    content_image = resize(to_tensor(pair.content_image, CPU)[None], size)[0].clamp(0, 1)
    return finish_colors(image.cpu(), content_image, pair.settings.preserve_color)


def finish_as_bytes(image: Tensor, pair: Pair) -> Tensor:
    """Return what ``to_pixels`` makes of the finished picture, as a tensor on the CPU.

    The device does it if it has memory: then a quarter of the bytes come from it.
    """
    if pair.settings.preserve_color != "luminance":
        try:
            return _to_bytes(image).cpu()
        except Exception as error:
            if not out_of_memory(error):
                raise
    return _to_bytes(finish(image, pair))


def to_tensor(picture: Picture, device: torch.device = CPU) -> Tensor:
    """Return a picture as a tensor (3, H, W), RGB in [0, 1], on a device."""
    if isinstance(picture, Tensor):
        return picture.to(device)
    if device.type == "cpu":  # in one pass
        unit = np.divide(picture, np.float32(255), dtype=np.float32)
        return torch.from_numpy(unit).permute(2, 0, 1)
    pixels = torch.from_numpy(np.array(picture))  # a copy: bytes from Arrow are read-only
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return pixels.to(device, non_blocking=True).permute(2, 0, 1).float().div_(255)


def to_pixels(image: Tensor) -> Pixels:
    """Return an image (3, H, W) in [0, 1] as bytes (H, W, 3)."""
    pixels: Pixels = _to_bytes(image).cpu().numpy()
    return pixels


def _to_bytes(image: Tensor) -> Tensor:
    levels = (image * 255).round_().permute(1, 2, 0).contiguous()
    return levels.to(torch.int16).byte()  # a CPU takes three times as long without this detour
