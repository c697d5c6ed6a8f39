"""Measure what one evaluation costs on this machine's device, with the method itself."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.images import codec
from pipeline.data.images.sizing import Pixels
from pipeline.engine.actor import pair_of
from pipeline.engine.checking import Checked
from pipeline.engine.resources import Resources
from pipeline.engine.stages.context import pair_settings
from pipeline.settings import SettingError, StyleSettings, replace
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import build_network
from pipeline.style.optimize import stylize_pairs
from pipeline.style.recipe import to_pixels
from pipeline.style.serving.phases import NonFiniteError

TIMED = 3
"""Most pairs of the sample that are optimised. TIME may allow fewer."""

TIME = 30.0
"""Seconds of optimising after which no further pair is begun."""

SHORT, LONG = 1, 5
"""Evaluations per scale of a pair's two runs. The difference of their times is measured."""


@dataclass(frozen=True)
class Calibration:
    """What pairs of the job cost on this machine's device.

    Attributes:
        device: name of the device.
        timed: number of pairs that were measured.
        batch: pairs that were evaluated together, at least.
        shape: mean area of a result, in units of image_size squared.
        seconds: seconds of one evaluation of one pair, per megapixel.
        bytes: bytes of a result's file, per megapixel.
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
    """Time the method on some of the loaded pairs.

    Args:
        checked: the job.
        loaded: rows of the plan with the ``LOADED`` columns.
        resources: how this machine is used.

    Returns:
        None if no pair can be timed: each ends at its first evaluation, or is an original.

    Raises:
        SettingError: a single pair does not fit into the device's memory.
    """
    on_gpu = bool(resources.gpus_per_actor)
    device = torch.device("cuda" if on_gpu else "cpu")
    network = build_network(checked.weights, checked.style).to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.threads if not on_gpu else threads)
    started = time.monotonic()
    timings: list[_Timing] = []
    try:
        for row in [row for row in loaded if row["__style_images"]][:TIMED]:
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
        settings = pair_settings(row, checked.style)
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
    """What one pair cost.

    Attributes:
        batch: pairs that were evaluated together.
        seconds: time of ``work``.
        work: evaluations times pairs times megapixels.
        megapixels: size of the result.
        bytes: size of the result's file.
    """

    batch: int
    seconds: float
    work: float
    megapixels: float
    bytes: int


def _time(row: dict[str, Any], checked: Checked, network: VGG, batch: int) -> _Timing:
    """Optimise a pair in ``batch`` copies at once, or in as many as memory allows.

    Raises:
        NonFiniteError: its loss is not finite at the start.
        SettingError: there is no memory for a single copy.
    """
    settings = pair_settings(row, checked.style)
    try:
        _run(row, settings, network, batch, SHORT)  # warms up: it does what is done only once
        short, before, _ = _run(row, settings, network, batch, SHORT)
        long, after, pixels = _run(row, settings, network, batch, LONG)
    except torch.OutOfMemoryError as error:
        if batch == 1:
            raise SettingError(
                f"image_size: a pair of {settings.image_size} px does not fit into the memory of "
                "this device; make it smaller"
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
) -> tuple[float, int, Pixels]:
    """Return seconds, evaluations, and the (H, W, 3) uint8 pixels of the first result."""
    few = replace(settings, iterations=evaluations * settings.scales, tolerance=0.0)
    pair = dataclasses.replace(pair_of(row, settings), settings=few, style_keys=None)
    started = time.perf_counter()
    images, histories = stylize_pairs(network, [pair] * batch)
    pixels = to_pixels(images[0])
    return time.perf_counter() - started, histories[0].evaluations, pixels
