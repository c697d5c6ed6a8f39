"""Training images to what the method takes, and back."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from pipeline.style.recipe import to_pixels, to_tensor

TrainingImage = Image.Image | Tensor
"""A PIL image, or a tensor (3, H, W); uint8, or floats in [0, 1]."""

FORMS = "give a PIL image, or a tensor (3, H, W) of uint8 or of floats in [0, 1]"


class UnfitError(ValueError):
    """An image or a style that cannot be used; training goes on without it."""


def opened(image: Any) -> tuple[TrainingImage, Tensor]:
    """Return an image in RGB, and as float32 in [0, 1].

    Raises:
        UnfitError: its file is broken, which Pillow finds when it decodes the pixels.
        TypeError, ValueError: see ``as_rgb`` and ``to_unit``.
    """
    try:
        rgb = as_rgb(image)
        return rgb, to_unit(rgb)
    except OSError as error:
        raise UnfitError(f"its file cannot be decoded ({error})") from error


def as_rgb(image: Any) -> Any:
    """Return a PIL image in RGB; anything else as it is.

    The image is not turned upright by its EXIF data, because its bounding boxes would not turn
    with it.

    Raises:
        ValueError: the image has more than 8 bits per channel.
    """
    if not isinstance(image, Image.Image) or image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"a PIL image of mode {image.mode}; convert it to RGB first")
    return image.convert("RGB")


def to_unit(image: Any) -> Tensor:
    """Return one image or a batch as float32 in [0, 1], on the device that it is on.

    Args:
        image: a PIL image in RGB, or a tensor (3, H, W) or (B, 3, H, W).

    Raises:
        TypeError: it is no image.
        ValueError: its shape, type or range does not fit.
    """
    if isinstance(image, Image.Image):
        return to_tensor(np.asarray(image))
    if not isinstance(image, Tensor):
        raise TypeError(f"a {type(image).__name__} is no image; {FORMS}")
    plain = image.detach().as_subclass(Tensor)
    if plain.ndim not in (3, 4) or plain.shape[-3] != 3:
        raise ValueError(
            f"an image of shape {tuple(plain.shape)}; {FORMS}. torchvision's v2.RGB makes three "
            "channels of one"
        )
    if plain.dtype == torch.uint8:
        return plain.float().div(255)
    if not plain.is_floating_point():
        raise ValueError(f"an image of type {plain.dtype}; {FORMS}")
    # NaN is one image's own fault, and found when it is stylised.
    if bool(((plain < 0) | (plain > 1)).any()):
        raise ValueError("an image with values outside of [0, 1]; normalise it after this step")
    return plain.float()


def like(image: Tensor, given: TrainingImage) -> Any:
    """Return an image (3, H, W) in [0, 1] as the kind, type and device of ``given``.

    Tensors come back as plain ones; see ``wrapped``.
    """
    if isinstance(given, Image.Image):
        return Image.fromarray(to_pixels(image))
    values = (image * 255).round() if given.dtype == torch.uint8 else image
    return values.to(given.device, given.dtype)


def wrapped(made: Any, given: TrainingImage) -> Any:
    """Return what was made of ``given`` as torchvision's ``Image`` if that was given."""
    return tv_tensors.wrap(made, like=given) if isinstance(given, tv_tensors.Image) else made
