"""What one evaluation costs on this machine's device, measured with the method itself."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.images import codec, sizing
from pipeline.engine import stages
from pipeline.engine.actor import pair_of
from pipeline.engine.prepare import Checked
from pipeline.engine.resources import Resources
from pipeline.settings import SettingError, StyleSettings, replace
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import build_network
from pipeline.style.optimize import stylize_pairs
from pipeline.style.recipe import to_pixels
from pipeline.style.serving.phases import NonFiniteError

TIMED = 3
"""Pairs of the sample that are optimised, as far as TIME allows."""

TIME = 30.0
"""Seconds of optimising after which no further pair is begun."""

SHORT, LONG = 1, 5
"""Evaluations per scale of a pair's two runs; the difference of their times is what counts."""


@dataclass(frozen=True)
class Calibration:
    """Measured on ``timed`` pairs in batches of ``batch``.

    shape: area of a result over image_size squared. seconds: of one evaluation of one pair, per
    megapixel. bytes: of a result's file, per megapixel.
    """

    device: str
    timed: int
    batch: int
    shape: float
    seconds: float
    bytes: float


def calibrate(
    checked: Checked, loaded: list[dict[str, Any]], resources: Resources
) -> Calibration | None:
    """Time the method on some of the loaded rows; None if none of them can be, or all of them end
    at their first evaluation.

    Raises:
        SettingError: a single pair does not fit into the device's memory.
    """
    on_gpu = bool(resources.gpus_per_actor) and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    network = build_network(checked.weights, checked.style).to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.threads if not on_gpu else threads)
    started = time.monotonic()
    timings: list[_Timing] = []
    try:
        for row in loaded[:TIMED]:
            if timings and time.monotonic() - started > TIME:
                break
            with contextlib.suppress(NonFiniteError):
                timings.append(_time(row, checked, network, resources.batch_size))
    finally:
        torch.set_num_threads(threads)
    work = sum(timing.work for timing in timings)
    if not work:
        return None
    sizes = []
    for row in loaded:
        settings = stages.row_settings(row, checked.style)
        image = row["__content_image"]
        sizes.append(image["height"] * image["width"] / settings.image_size**2)
    return Calibration(
        device=torch.cuda.get_device_name() if on_gpu else f"cpu x {resources.threads}",
        timed=len(timings),
        batch=min(timing.batch for timing in timings),
        shape=sum(sizes) / len(sizes),
        seconds=sum(timing.seconds for timing in timings) / work,
        bytes=sum(timing.bytes for timing in timings) / sum(t.megapixels for t in timings),
    )


@dataclass(frozen=True)
class _Timing:
    """seconds: of ``work``, which is evaluations times pairs times megapixels."""

    batch: int
    seconds: float
    work: float
    megapixels: float
    bytes: int


def _time(row: dict[str, Any], checked: Checked, network: VGG, batch: int) -> _Timing:
    """Optimise the row ``batch`` times side by side, or as often as memory allows.

    Raises:
        NonFiniteError: its loss is not finite at the start.
        SettingError: there is no memory for it.
    """
    settings = stages.row_settings(row, checked.style)
    try:
        _run(row, settings, network, batch, SHORT)  # what is made ready once
        short, before, _ = _run(row, settings, network, batch, SHORT)
        long, after, pixels = _run(row, settings, network, batch, LONG)
    except torch.OutOfMemoryError as error:
        if batch == 1:
            raise SettingError(
                f"image_size: a pair of {settings.image_size} px does not fit into the memory of "
                "this device; make it less"
            ) from error
        return _time(row, checked, network, batch // 2)
    megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
    return _Timing(
        batch=batch,
        seconds=max(0.0, long - short),
        work=(after - before) * batch * megapixels,
        megapixels=megapixels,
        bytes=len(codec.encode(pixels, checked.job.image_format, checked.job.quality)),
    )


def _run(
    row: dict[str, Any], settings: StyleSettings, network: VGG, batch: int, evaluations: int
) -> tuple[float, int, sizing.Pixels]:
    """Return seconds, evaluations, and the (H, W, 3) pixels of the first result."""
    few = replace(settings, iterations=evaluations * settings.scales, tolerance=0.0)
    pair = dataclasses.replace(pair_of(row, settings), settings=few, style_keys=None)
    started = time.perf_counter()
    images, histories = stylize_pairs(network, [pair] * batch)
    pixels = to_pixels(images[0])
    return time.perf_counter() - started, histories[0].evaluations, pixels
