"""What a lane's settings and network ask of its optimizer and preconditioner."""

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.hardware.convolution import in_tf32
from pipeline.style.method.targets import Size
from pipeline.style.network.vgg import VGG
from pipeline.style.optimizer.adam import Adam
from pipeline.style.optimizer.lbfgs import LBFGS
from pipeline.style.optimizer.precondition import Preconditioner

REACH = 2.0
"""Factor of H_0 over gamma P (see ``LBFGS``) for pairs whose preconditioner is learnt.

It applies from the first step on, before anything has been learnt."""

GREY_LEVEL = 1 / 255
"""Distance between two of the 256 levels of a pixel in [0, 1]."""

RANGE = (0.0, 1.0)
"""Range of a pixel. A file cannot hold more, and clipping at the end would raise the loss."""


def preconditioner_of(size: Size, like: Tensor, settings: StyleSettings) -> Preconditioner | None:
    """Return a preconditioner for images like (slots, 3, H, W); None for the plain gradient."""
    exponent = settings.spectral_exponent
    shaped = exponent or settings.color_preconditioner or settings.first_metric == "measured"
    if shaped or settings.learn_preconditioner:
        return Preconditioner(size, len(like), exponent, like)
    return None


def rounding_of(network: VGG) -> float:
    """Return the relative rounding of a loss in the network's type; 0 where it does not matter."""
    if network.dtype == torch.bfloat16:
        return 1e-3
    if network.dtype == torch.float16:
        return 1e-4
    if network.device.type != "cuda" or network.dtype != torch.float32:
        return 0.0
    # TF32 rounds like float16. GPUs have it since compute capability 8.0, and PyTorch convolves in
    # it by default.
    able = torch.cuda.get_device_capability(network.device)[0] >= 8
    return 1e-4 if able and in_tf32() else 0.0


def optimizer_of(x: Tensor, settings: StyleSettings, rounding: float) -> LBFGS | Adam:
    """Return the settings' optimizer.

    Args:
        x: zeros of the form of the slots' images, (slots, 3 H W).
        settings: of the lane.
        rounding: see ``rounding_of``.
    """
    if settings.optimizer == "adam":
        rate = settings.learning_rate * GREY_LEVEL
        return Adam(x, learning_rate=rate, bounds=RANGE)
    return LBFGS(
        x,
        history_size=settings.history_size,
        learning_rate=settings.learning_rate,
        curvature_test=settings.curvature_test,
        first_step=settings.first_step * GREY_LEVEL,
        backtracks=settings.backtracks,
        bounds=RANGE,
        reach=REACH if settings.learn_preconditioner else 1.0,
        rounding=rounding,
    )
