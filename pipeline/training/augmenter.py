"""What the transform and the data set share: the draws, the styles, and a network per device."""

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.data.storage import files
from pipeline.data.storage.filesystems import StorageOptions
from pipeline.settings import SettingError, StyleSettings, as_settings, replace
from pipeline.style.hardware.products import matmul_precision
from pipeline.style.method.targets import least_side
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import build_network, load_weights
from pipeline.style.recipe import Pair, TargetCache
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import check_precision
from pipeline.training.images import UnfitError
from pipeline.training.styles import Styles, StyleSource

SLOTS_ON_CPU = 8
"""Images that a CPU optimises side by side. At 32 px an image takes a quarter of the time that it
takes alone, and more than eight gain nothing."""

SLOTS_ON_GPU = 32
"""Images that a GPU optimises side by side: training images are small, and few do not fill it."""

REFUSED = {
    "image_size": "training images keep their size; resize them before this step",
    "iterations": "give evaluations",
}
"""Style settings that cannot be given, and why."""


@dataclass
class Tools:
    """What one device needs; it is made at first use in each process."""

    network: VGG
    cache: TargetCache


class Augmenter:
    """Draws styles for images and makes pairs of them. ``StylizeTransform`` tells the arguments."""

    def __init__(
        self,
        styles: StyleSource | Sequence[StyleSource],
        *,
        p: float = 0.5,
        weights: str = "compact",
        evaluations: int = 30,
        style_weights: Sequence[float] | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        style_cache: int = 64,
        storage_options: StorageOptions | None = None,
        **settings: Any,
    ) -> None:
        for name, why in REFUSED.items():
            if name in settings:
                raise SettingError(f"{name}: {why}")
        if not 0 <= p <= 1:
            raise SettingError(f"p: {p} is no probability; give a number from 0 to 1")
        if batch_size is not None and batch_size < 1:
            raise SettingError(f"batch_size: {batch_size}; give at least 1")
        if style_cache < 1:
            raise SettingError(f"style_cache: {style_cache}; give at least 1")
        self.settings = replace(
            StyleSettings(), weights=weights, iterations=evaluations, **as_settings(settings)
        )
        self.p, self.batch_size, self.style_cache = p, batch_size, style_cache
        self.device = None if device is None else torch.device(device)
        self.options = storage_options or {}
        self.styles = Styles(
            styles, style_weights, self.settings, kept=style_cache, options=self.options
        )
        self.warned = False
        self._network: VGG | None = None
        self._tools: dict[str, Tools] = {}
        self._process = os.getpid()
        self._loaded()  # weights that cannot be loaded are the caller's to hear of

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network: each process loads its own."""
        return self.__dict__ | {"_network": None, "_tools": {}}

    def draw(self, count: int, generator: torch.Generator | None = None) -> list[int | None]:
        """Draw for each of ``count`` images its style, or None where it stays as it is.

        Args:
            count: how many images.
            generator: torch's own if None.
        """
        wanted = torch.rand(count, generator=generator, device="cpu") < self.p
        drawn = self.styles.draw(count, generator)
        return [style if yes else None for style, yes in zip(drawn, wanted.tolist(), strict=True)]

    def pair(self, image: Tensor, style: int) -> Pair:
        """Return an image (3, H, W) in [0, 1] and a style as a pair.

        Raises:
            UnfitError: the image is too small or not finite, or its style cannot be used.
        """
        height, width = size = (image.shape[1], image.shape[2])
        least = least_side(self.settings)
        if min(size) < least:
            raise UnfitError(f"{width} x {height} px, the least side is {least} px")
        if not bool(image.isfinite().all()):
            raise UnfitError("a value of it is not finite")
        # The cache of targets tells sizes apart itself, so a style's number is key enough.
        style_image = self.styles.image(style, size)
        return Pair(image, [style_image], self.settings, style_keys=[str(style)])

    def slots(self, device: torch.device) -> int:
        """Return how many images are optimised side by side on a device."""
        return self.batch_size or (SLOTS_ON_GPU if device.type == "cuda" else SLOTS_ON_CPU)

    def batcher(self, device: torch.device, slots: int) -> Batcher:
        """Return a new batcher with this process's network and style targets.

        Raises:
            WeightsError: the weights cannot be loaded.
            RuntimeError: the GPU cannot work in this ``precision``.
        """
        tools = self._tools_on(device)
        return Batcher(tools.network, slots, cache=tools.cache)

    def warn(self, error: Exception) -> None:
        """Warn of an image that stays as it is; once, since there may be thousands."""
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"an image was not stylised: {error or type(error).__name__}. It stays as it is, "
                "and so do others that fail, without a further warning",
                RuntimeWarning,
                stacklevel=3,
            )

    def _tools_on(self, device: torch.device) -> Tools:
        if self._process != os.getpid():  # a forked process cannot use its parent's GPU
            self._tools, self._process = {}, os.getpid()
        name = str(device)
        if name not in self._tools:
            check_precision(self.settings, device)
            network = self._loaded()
            if device.type != "cpu":
                network = copy.deepcopy(network).to(device)
            cache = TargetCache(network, self.settings, self.style_cache)
            self._tools[name] = Tools(network, cache)
        return self._tools[name]

    def _loaded(self) -> VGG:
        """Return the network on the CPU."""
        if self._network is None:
            state, _ = load_weights(self.settings, files.reader(self.options))
            self._network = build_network(state, self.settings)
        return self._network


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Turn off a training loop's ``autocast``, ``inference_mode`` and short products for a while.

    Under autocast the losses would round to 16 bits, with ``set_float32_matmul_precision`` below
    ``highest`` their sums would, and tensors that are made in inference mode could not be changed
    outside of it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        # Raises if the process uses PyTorch's newer precision switches. Those then decide.
        with contextlib.suppress(RuntimeError):
            stack.enter_context(matmul_precision("highest"))
        yield
