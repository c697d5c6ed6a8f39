"""PIL images, arrays and tensors to what the method takes, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.errors import RowError
from pipeline.data.images import conversion, sizing
from pipeline.settings import SettingError, StyleSettings
from pipeline.style.method.targets import least_side
from pipeline.style.recipe import to_pixels, to_tensor

Picture = Image.Image | npt.NDArray[Any] | Tensor
"""A PIL image, an array (H, W, 3) or a tensor (3, H, W); uint8, or floats in [0, 1]."""

FORMS = "give a PIL image, an array (H, W, 3) or a tensor (3, H, W)"


def several(given: Any, name: str) -> tuple[list[Picture], bool]:
    """Return the pictures that were given, and whether they came as several.

    Raises:
        ValueError: there are none.
    """
    stacked = isinstance(given, (np.ndarray, Tensor)) and given.ndim == 4
    if not stacked and not isinstance(given, (list, tuple)):
        return [given], False
    if not len(given):
        raise ValueError(f"{name}: no picture in it; {FORMS}")
    return list(given), True


def check(picture: Any, name: str) -> None:
    """Raise if this is no picture.

    Raises:
        TypeError: it is of another kind.
        ValueError: its shape or its values do not fit.
    """
    if isinstance(picture, Image.Image):
        if min(picture.size) < sizing.SMALLEST:
            width, height = picture.size
            raise ValueError(f"{name}: {width} x {height} px; the least edge is {sizing.SMALLEST}")
        return
    if not isinstance(picture, (np.ndarray, Tensor)):
        raise TypeError(f"{name}: a {type(picture).__name__} is no picture; {FORMS}")
    channels = picture.shape[:1] if isinstance(picture, Tensor) else picture.shape[2:]
    shape = tuple(picture.shape)
    if len(shape) != 3 or tuple(channels) != (3,):
        raise ValueError(f"{name}: of shape {shape}; {FORMS}")
    sides = shape[1:] if isinstance(picture, Tensor) else shape[:2]
    if min(sides) < sizing.SMALLEST:
        raise ValueError(f"{name}: of shape {shape}; the least edge is {sizing.SMALLEST} px")
    values = picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
    if values.dtype == torch.uint8:
        return
    if not values.is_floating_point():
        raise ValueError(f"{name}: of type {picture.dtype}; give uint8, or floats in [0, 1]")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(f"{name}: values outside of [0, 1]; divide by 255, or give uint8")


def to_content(picture: Picture, settings: StyleSettings) -> Tensor:
    """(3, H, W) in [0, 1], float32. A tensor keeps its size, other kinds get the settings'.

    Raises:
        ValueError: a tensor is too small for the settings' padding, another picture too narrow.
    """
    content = _to_tensor(picture, settings.image_size, settings.image_edge)
    least = least_side(settings)
    if min(content.shape[1:]) < least:
        shape, padding = tuple(content.shape), settings.padding
        raise ValueError(f"content: of shape {shape}; with padding {padding!r} at least {least} px")
    return content


def to_style(picture: Picture, content: Picture, settings: StyleSettings) -> Tensor:
    """As ``to_content``; beside a tensor as content, its edge takes the place of image_size."""
    size: float = settings.image_size
    if isinstance(content, Tensor):
        edge = max if settings.image_edge == "long" else min
        size = edge(content.shape[1:])
    return _to_tensor(picture, size * settings.style_scale, settings.image_edge)


def refuse_sizes(
    contents: Sequence[Picture], styles: Sequence[Picture], changes: dict[str, Any]
) -> None:
    """Raise if a size was asked for that tensors, which keep theirs, would not have.

    Raises:
        SettingError: names the setting.
    """
    for name, pictures in (("image_size", contents), ("style_scale", styles)):
        if name in changes and any(isinstance(picture, Tensor) for picture in pictures):
            raise SettingError(f"{name}: tensors keep their size; resize them, or give arrays")


def _to_tensor(picture: Picture, size: float, edge: str) -> Tensor:
    if isinstance(picture, Tensor):
        share = 255 if picture.dtype == torch.uint8 else 1
        return picture.detach().float().div(share)
    rgb = conversion.to_rgb(to_pil(picture))
    try:
        # What is in memory already is not a bomb: the result has at most eight times 8192 px.
        fitted = sizing.fit_size(rgb.width, rgb.height, size, edge, 2**31)
    except RowError as error:
        raise ValueError(f"a picture of {error}") from error
    return to_tensor(sizing.resize(rgb, fitted))


def to_pil(picture: Picture) -> Image.Image:
    """Return any picture as a PIL image."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Tensor):
        unit = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float()
        return Image.fromarray(to_pixels(unit))
    levels = picture if picture.dtype == np.uint8 else (picture * 255).round()
    return Image.fromarray(levels.astype(np.uint8))


def like(image: Tensor, given: Picture) -> Picture:
    """(3, H, W) in [0, 1] as the kind, type and device of ``given``."""
    if isinstance(given, Image.Image):
        return Image.fromarray(to_pixels(image))
    if isinstance(given, Tensor):
        values = (image * 255).round() if given.dtype == torch.uint8 else image
        return values.to(given)
    if given.dtype == np.uint8:
        return to_pixels(image)
    return image.permute(1, 2, 0).cpu().numpy().astype(given.dtype)
