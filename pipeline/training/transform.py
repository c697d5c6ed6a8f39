"""``StylizeTransform``: a torchvision v2 transform that stylises some of the images it is given."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.data.storage.filesystems import StorageOptions
from pipeline.style.optimize import optimise
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.phases import Done
from pipeline.training import images
from pipeline.training.augmenter import Augmenter, undisturbed
from pipeline.training.images import TrainingImage, UnfitError
from pipeline.training.styles import StyleSource


def _is_image(value: Any) -> bool:
    """Whether a value is an image by its type; masks, boxes and labels of torchvision are not."""
    return type(value) is Tensor or isinstance(value, (tv_tensors.Image, Image.Image))


class StylizeTransform(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Stylises images at random while a network trains.

    It takes a PIL image, a tensor or torchvision ``Image`` (3, H, W), or a batch (B, 3, H, W),
    whose images are optimised side by side and each have a draw and a style of their own. Tensors
    are uint8 or floats in [0, 1]. Images keep their size, type and device; PIL images come back in
    RGB. Bounding boxes, masks, labels and all else pass through. Several images of one sample have
    the same style. The draws come from torch's generator, so ``torch.manual_seed`` repeats them.

    An image that cannot be stylised (less than 16 px on a side, not finite, an unreadable style
    file) stays as it is; the first one in a process causes a warning.

    Args:
        styles: a PIL image, an array (H, W, 3), a tensor (3, H, W), the path or URI of an image
            file or of a folder of them, or a list of such.
        p: the probability that an image is stylised.
        weights: the network's weights, as in ``StyleSettings``; the path may be a URI.
        evaluations: most loss evaluations per image; more give a stronger style.
        style_weights: a weight for each entry of ``styles``; a folder's is divided equally among
            its files. If None, all images are drawn equally often.
        batch_size: most images of a batch optimised together; 8 on a CPU, 32 on a GPU if None.
        device: where images are optimised; if None, where they are (PIL images: the CPU).
        style_cache: style images, and style targets, that are kept in memory.
        storage_options: fsspec options by scheme.
        settings: other fields of ``StyleSettings``, for example ``content_weight=0.1``.

    Raises:
        SettingError: a setting is unknown or out of range.
        TypeError: a style is neither a picture nor a path; when it is called, a video.
        ValueError: a style or its weight cannot be used; when it is called, an image of another
            shape, type or range.
        WeightsError: the network's weights cannot be loaded.
        RuntimeError: a GPU cannot be used.
    """

    _transformed_types = (_is_image,)

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
        super().__init__()
        self._augmenter = Augmenter(
            styles,
            p=p,
            weights=weights,
            evaluations=evaluations,
            style_weights=style_weights,
            batch_size=batch_size,
            device=device,
            style_cache=style_cache,
            storage_options=storage_options,
            **settings,
        )
        self._batchers: dict[tuple[str, int], Batcher] = {}
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the batchers: each process has its own."""
        return self.__dict__ | {"_batchers": {}}

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse videos, whose frames would flicker.

        Raises:
            TypeError: there is one.
        """
        if any(isinstance(value, tv_tensors.Video) for value in flat_inputs):
            raise TypeError("StylizeTransform takes images, not videos")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw styles for a sample: as many as its largest batch has images."""
        counts = [len(value) if _is_batch(value) else 1 for value in flat_inputs]
        return {"styles": self._augmenter.draw(max(counts, default=0))}

    def transform(self, inpt: TrainingImage, params: dict[str, Any]) -> Any:
        """Stylise an image, or those of a batch that were drawn."""
        try:
            given, unit = images.opened(inpt)
        except UnfitError as error:
            self._augmenter.warn(error)
            return inpt
        batch = unit if unit.ndim == 4 else unit[None]
        drawn = {
            index: style
            for index, style in enumerate(params["styles"][: len(batch)])
            if style is not None
        }
        if not drawn:
            return given
        device = self._augmenter.device or unit.device
        pairs = [self._pair(batch[index], style) for index, style in drawn.items()]
        slots = self._augmenter.slots(device) if unit.ndim == 4 else 1
        with undisturbed(device):
            done = optimise(self._batcher(device, slots), pairs)
        return self._joined(given, dict(zip(drawn, done, strict=True)))

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between its brackets."""
        augmenter = self._augmenter
        settings = augmenter.settings
        return (
            f"{len(augmenter.styles)} styles, p={augmenter.p}, weights={settings.weights!r}, "
            f"evaluations={settings.iterations}"
        )

    def _pair(self, image: Tensor, style: int) -> Any:
        try:
            return self._augmenter.pair(image, style)
        except UnfitError as error:
            return error

    def _joined(self, given: TrainingImage, done: dict[int, Done | Exception]) -> Any:
        """Return ``given`` with the images that were stylised in their places."""
        for outcome in done.values():
            if isinstance(outcome, Exception):
                self._augmenter.warn(outcome)
        made = {
            index: images.like(outcome.image, given)
            for index, outcome in done.items()
            if isinstance(outcome, Done)
        }
        if not made:
            return given
        if not _is_batch(given):
            return images.wrapped(made[0], given)
        batch = torch.as_tensor(given).clone()
        for index, image in made.items():
            batch[index] = image
        return images.wrapped(batch, given)

    def _batcher(self, device: torch.device, slots: int) -> Batcher:
        if self._process != os.getpid():  # a forked process cannot use its parent's GPU
            self._batchers, self._process = {}, os.getpid()
        key = str(device), slots
        if key not in self._batchers:
            self._batchers[key] = self._augmenter.batcher(device, slots)
        return self._batchers[key]


def _is_batch(image: TrainingImage) -> bool:
    return isinstance(image, Tensor) and image.ndim == 4
