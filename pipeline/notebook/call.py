"""``stylize``: pictures in, pictures of the same kind and their loss history out."""

import math
import sys
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from pipeline.notebook import pictures
from pipeline.notebook.pictures import Picture
from pipeline.notebook.results import Failure, Result, Step, result_of
from pipeline.settings import StyleSettings, as_settings, replace
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import check_network, load_network
from pipeline.style.optimize import optimise
from pipeline.style.recipe import Pair
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import check_precision
from pipeline.style.serving.phases import Done


def stylize(
    content: Picture | Sequence[Picture],
    style: Picture | Sequence[Picture],
    *,
    style_blend: Sequence[float] | None = None,
    network: VGG | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    progress: bool | None = None,
    on_step: Callable[[Step], None] | None = None,
    **settings: Any,
) -> Result | list[Result | Failure]:
    """Stylise one picture or several, without Ray or storage.

    Args:
        content: a PIL image, an array (H, W, 3), a tensor (3, H, W), or several: a list of them,
            (B, H, W, 3) or (B, 3, H, W). uint8, or floats in [0, 1]. Images and arrays are resized
            as in a job (``image_size``, ``image_edge``); tensors keep their size.
        style: in the same forms (``style_scale``). One for all contents, or one for each; one
            content may meet several styles, which gives several pictures.
        style_blend: a weight for each style. All styles are then blended into each picture.
        network: a network from ``load_network``, so that it is loaded only once.
        device: ``cuda`` or ``cpu``; a GPU if PyTorch sees one.
        batch_size: most pairs optimised together; 8 on a GPU, 1 on a CPU if None.
        progress: show a progress bar; in notebooks only if None.
        on_step: called with a ``Step`` after each evaluation but the last of each scale.
        settings: fields of ``StyleSettings``, for example ``weights="compact"``.

    Returns:
        A ``Result``, or a list of them if several pictures were asked for. Images are of the
        content's kind: PIL images, arrays (H, W, 3) or tensors (3, H, W). Where some of several
        pictures fail there is a warning, and a ``Failure`` in the place of each.

    Raises:
        SettingError: a setting is unknown, out of range, or a size was given with tensors.
        TypeError: a content or a style is not a picture.
        ValueError: shapes, values or counts do not fit.
        WeightsError: the weights cannot be loaded.
        RuntimeError: the GPU cannot work in this ``precision``.
        NonFiniteError: a loss is not finite at its start; of several pictures, of all.
        torch.OutOfMemoryError: a pair does not fit into the device's memory, even alone; of several
            pictures, none does.
    """
    settings = as_settings(settings)
    chosen = replace(StyleSettings(), **settings)
    contents, many = pictures.several(content, "content")
    styles, many_styles = pictures.several(style, "style")
    for name, given in (("content", contents), ("style", styles)):
        for picture in given:
            pictures.check(picture, name)
    pictures.refuse_sizes(contents, styles, settings)
    if style_blend is None:
        count = max(len(contents), len(styles))
        if {len(contents), len(styles)} - {1, count}:
            raise ValueError(
                f"{len(contents)} contents, {len(styles)} styles: give one, or as many"
            )
        contents, of_each = _repeat(contents, count), [[each] for each in _repeat(styles, count)]
    else:
        _check_blend(style_blend, len(styles))
        of_each, many_styles = [styles] * len(contents), False
    batcher = make_batcher(chosen, network, device, batch_size)
    pairs = [to_pair(*given, chosen, style_blend) for given in zip(contents, of_each, strict=True)]
    outcomes = _optimise_shown(batcher, pairs, contents, progress, on_step)
    done = [outcome for outcome in outcomes if isinstance(outcome, Done)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if not done:
        raise failed[0]
    if not many and not many_styles:
        return result_of(done[0], contents[0])
    if failed:
        why = f"{type(failed[0]).__name__}: {failed[0]}"
        count = len(outcomes)
        words = f"{len(failed)} of {count} pictures failed, the first with {why}; see their .error"
        warnings.warn(words, RuntimeWarning, stacklevel=2)
    return [
        Failure(outcome) if isinstance(outcome, Exception) else result_of(outcome, given)
        for outcome, given in zip(outcomes, contents, strict=True)
    ]


def _repeat(given: list[Picture], count: int) -> list[Picture]:
    return given * count if len(given) == 1 else given


def _check_blend(style_blend: Sequence[float], styles: int) -> None:
    good = all(math.isfinite(weight) and weight >= 0 for weight in style_blend)
    if len(style_blend) != styles or not good or not sum(style_blend):
        raise ValueError(
            f"style_blend: {list(style_blend)} does not fit {styles} styles; give a weight of at "
            "least 0 for each, not all 0"
        )


def to_pair(
    content: Picture,
    styles: Sequence[Picture],
    settings: StyleSettings,
    style_blend: Sequence[float] | None = None,
) -> Pair:
    """Return a content image and its style images as a pair, in the settings' sizes."""
    style_images = [pictures.to_style(style, content, settings) for style in styles]
    return Pair(pictures.to_content(content, settings), style_images, settings, style_blend)


def make_batcher(
    settings: StyleSettings,
    network: VGG | None,
    device: str | torch.device | None,
    batch_size: int | None,
) -> Batcher:
    """Return a ``Batcher`` with the network of ``settings``, on a GPU if there is one.

    Raises:
        SettingError: the network does not fit the settings.
        WeightsError: the weights cannot be loaded.
        RuntimeError: the GPU cannot work in this ``precision``.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_precision(settings, device)
    if network is not None:
        check_network(network, settings)
    slots = batch_size or (8 if device.type == "cuda" else 1)
    return Batcher((network or load_network(settings)).to(device), slots)


def _optimise_shown(
    batcher: Batcher,
    pairs: Sequence[Pair],
    given: Sequence[Picture],
    progress: bool | None,
    on_step: Callable[[Step], None] | None,
) -> list[Done | Exception]:
    """``optimise``, with a progress bar and a call for each evaluation."""
    shown = in_notebook() if progress is None else progress
    seen: dict[Hashable, int] = {}
    total = sum(pair.settings.iterations for pair in pairs)
    with tqdm(total=total, desc="stylize", unit="evaluation", disable=not shown) as bar:

        def after_tick(keys: Sequence[Hashable]) -> None:
            for key, evaluation, loss, image in batcher.under_way():
                if evaluation == seen.get(key, 0):
                    continue
                bar.update(evaluation - seen.get(key, 0))
                seen[key] = evaluation
                if on_step is not None:
                    index = keys.index(key)
                    # The optimiser goes on in the same memory, and a GPU's is small.
                    step = image.to("cpu", copy=True)
                    on_step(Step(index, evaluation, loss, step, pairs[index], given[index]))

        outcomes = optimise(batcher, pairs, after_tick)
        bar.total = bar.n = sum(
            len(outcome.history.total) for outcome in outcomes if isinstance(outcome, Done)
        )  # most pictures need fewer evaluations than they may have
        bar.refresh()
    return outcomes


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
