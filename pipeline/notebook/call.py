"""``stylize``: pictures in, pictures of the same kind and their loss history out."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.notebook import pictures
from pipeline.notebook.pictures import Picture
from pipeline.settings import StyleSettings, replace
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import Pair
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import check_precision
from pipeline.style.serving.phases import Done, History


@dataclass(frozen=True)
class LossHistory(History):
    """What happened to one picture, and a plot of it."""

    def plot(self, ax: Any = None) -> Any:
        """The loss after each evaluation, on a log axis; dotted where another scale begins.

        Args:
            ax: matplotlib's Axes to draw into; the current ones if not given. Returned.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError("plot() needs matplotlib: pip install matplotlib") from error
            ax = plt.gca()
        ax.semilogy(range(1, len(self.total) + 1), self.total)
        start = 0
        for (height, width), evaluations in self.phases:
            if start:
                ax.axvline(start + 0.5, color="grey", linestyle=":")
            place = ax.get_xaxis_transform()
            ax.text(start + 1, 0.98, f"{width} x {height}", transform=place, va="top", size="small")
            start += evaluations
        ax.set(xlabel="evaluation", ylabel="loss")
        return ax


@dataclass(frozen=True)
class Result:
    """image: of the content's kind. history: of its losses, with ``plot()``."""

    image: Any
    history: LossHistory = field(repr=False)
    error: None = field(default=None, repr=False)


@dataclass(frozen=True)
class Failure:
    """One of several pictures that could not be made. error: why; its image raises it."""

    error: Exception

    @property
    def image(self) -> Any:
        raise self.error

    @property
    def history(self) -> LossHistory:
        raise self.error


def stylize(
    content: Picture | Sequence[Picture],
    style: Picture | Sequence[Picture],
    *,
    network: VGG | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    **settings: Any,
) -> Result | list[Result | Failure]:
    """Stylise one picture or several, without Ray or storage.

    Args:
        content: a PIL image, an array (H, W, 3), a tensor (3, H, W), or several: a list of them,
            (B, H, W, 3) or (B, 3, H, W). uint8, or floats in [0, 1]. Images and arrays are resized
            as a job does it (``image_size``, ``image_edge``); tensors keep their size.
        style: in the same forms (``style_scale``). One for all contents, or one for each; one
            content may meet several styles.
        network: as ``load_network`` gives it, to load it only once.
        device: ``cuda`` or ``cpu``; a GPU if PyTorch sees one.
        batch_size: most pairs optimised together; 8 on a GPU, 1 on a CPU if not given.
        settings: fields of ``StyleSettings``, for example ``weights="compact"``.

    Returns:
        A ``Result``, or a list of them if several pictures were given. Images are of the content's
        kind: PIL images, arrays (H, W, 3) or tensors (3, H, W). Where some of several pictures fail
        there is a warning, and a ``Failure`` in the place of each: the others are kept.

    Raises (of several pictures only if all of them fail):
        SettingError: a setting is unknown, out of range, or a size was given with tensors.
        TypeError, ValueError: what was given are no pictures, or their numbers do not match.
        WeightsError: the weights cannot be had.
        RuntimeError: ``precision`` is nothing for the GPU.
        NonFiniteError: a loss is not finite at its start.
        torch.OutOfMemoryError: a pair does not fit into the device's memory, even alone.
    """
    chosen = replace(StyleSettings(), **settings)
    contents, many = pictures.several(content, "content")
    styles, many_styles = pictures.several(style, "style")
    for name, given in (("content", contents), ("style", styles)):
        for picture in given:
            pictures.check(picture, name)
    pictures.refuse_sizes(contents, styles, settings)
    count = max(len(contents), len(styles))
    if {len(contents), len(styles)} - {1, count}:
        raise ValueError(f"{len(contents)} contents, {len(styles)} styles: give one, or as many")
    pairs = list(zip(_repeat(contents, count), _repeat(styles, count), strict=True))
    batcher = make_batcher(chosen, network, device, batch_size)
    answers = optimise(batcher, [to_pair(*pair, chosen) for pair in pairs], chosen)
    done = [answer for answer in answers if isinstance(answer, Done)]
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    if not done:
        raise failed[0]
    if not many and not many_styles:
        return _result(done[0], contents[0])
    if failed:
        why = f"{type(failed[0]).__name__}: {failed[0]}"
        words = f"{len(failed)} of {count} pictures failed, the first with {why}; see their .error"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return [
        Failure(answer) if isinstance(answer, Exception) else _result(answer, given)
        for answer, (given, _) in zip(answers, pairs, strict=True)
    ]


def _repeat(given: list[Picture], count: int) -> list[Picture]:
    return given * count if len(given) == 1 else given


def _result(answer: Done, content: Picture) -> Result:
    return Result(pictures.like(answer.image, content), LossHistory(**vars(answer.history)))


def to_pair(content: Picture, style: Picture, settings: StyleSettings) -> tuple[Tensor, Tensor]:
    """Content and style (3, H, W) in [0, 1], in the settings' sizes."""
    return pictures.to_content(content, settings), pictures.to_style(style, content, settings)


def make_batcher(
    settings: StyleSettings, network: VGG | None, device: str | None, batch_size: int | None
) -> Batcher:
    """A ``Batcher`` with the network of ``settings``, on a GPU if there is one.

    Raises:
        WeightsError: the weights cannot be had.
        RuntimeError: ``precision`` is nothing for this GPU.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_precision(settings, torch.device(device))
    slots = batch_size or (8 if device.startswith("cuda") else 1)
    return Batcher((network or load_network(settings)).to(device), slots)


def optimise(
    batcher: Batcher, pairs: Sequence[tuple[Tensor, Tensor]], settings: StyleSettings
) -> list[Done | Exception]:
    """Stylise pairs of content and style (3, H, W). A pair's own failure is its answer.

    Raises:
        RuntimeError: a CUDA error: the device can no longer be used.
    """
    # No key is ever used again, as the number of a row would be by the batcher's next call.
    keys = [object() for _ in pairs]
    try:
        for key, (content_image, style_image) in zip(keys, pairs, strict=True):
            batcher.submit(key, Pair(content_image, [style_image], settings))
        found = dict(batcher.drain())
    except BaseException:  # Ctrl-C among them, which comes in the middle of anything
        batcher.abandon()
        raise
    return [found[key] for key in keys]
