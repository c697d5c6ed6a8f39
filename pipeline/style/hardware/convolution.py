"""A layer of the network: convolution and ReLU forward, the convolution's adjoint backward.

The work is done by PyTorch's convolution, by one kernel of cuDNN or oneDNN for convolution, bias
and ReLU, or by Winograd's algorithm.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.style.hardware import winograd
from pipeline.style.hardware.winograd import Transformed

aten = torch.ops.aten

Kernel = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""A convolution of stride 1 with a ReLU: from input, weights, bias and padding."""


def activate(conv: nn.Conv2d, x: Tensor, fast: Transformed | None = None) -> Tensor:
    """Compute a layer's rectified activations F = max(0, conv(x)), (B, N, H, W).

    Args:
        conv: the layer's convolution.
        x: its input (B, C, H, W).
        fast: see ``convolve``.
    """
    in_one_kernel = _kernel(conv, x)
    if in_one_kernel is None or (fast is not None and winograd.pays(x)):
        return F.relu_(convolve(conv, x, fast))
    padding = 1
    if conv.padding_mode != "zeros":
        x, padding = F.pad(x, (1, 1, 1, 1), mode=conv.padding_mode), 0
    # Separate kernels for bias and ReLU would each read and write all activations once more. On a
    # GPU, where memory bandwidth is scarce, that is up to half of a layer's time.
    return in_one_kernel(x, conv.weight, conv.bias, padding)


def in_tf32() -> bool:
    """Tell whether PyTorch convolves float32 in TF32 on GPUs that can; by default it does."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # PyTorch's newer switches have set the parts differently
        convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return bool(convolutions.fp32_precision == "tf32")


def _kernel(conv: nn.Conv2d, x: Tensor) -> Kernel | None:
    """Return one kernel for convolution, bias and ReLU, if there is one."""
    by_cudnn = x.is_cuda and torch.version.cuda is not None and torch.backends.cudnn.enabled
    by_onednn = x.device.type == "cpu" and torch.backends.mkldnn.enabled
    if x.dtype == torch.float64 or not (by_cudnn or by_onednn):
        return None
    kernel = _by_cudnn if by_cudnn else _by_onednn
    able = _is_able(kernel, x.device, x.dtype, conv.in_channels, conv.out_channels)
    return kernel if able else None


def _by_cudnn(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    once = [1, 1]
    found: Tensor = aten.cudnn_convolution_relu(x, weight, bias, once, [padding] * 2, once, 1)
    return found


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    once = [1, 1]
    found: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, [padding] * 2, once, once, 1, "relu", [], ""
    )
    return found


@functools.cache
def _is_able(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, below: int, filters: int
) -> bool:
    """Tell whether a kernel can compute such a layer on this device.

    cuDNN may not on an older GPU. Not every build of PyTorch has oneDNN's, and 16 bits are for CPUs
    that have instructions for them.

    Raises:
        RuntimeError: there is too little memory to find out.
    """
    x, weight = (
        torch.zeros(count, below, side, side, device=device, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for count, side in ((1, 16), (filters, 3))
    )
    try:
        kernel(x, weight, weight.new_zeros(filters), 1)
    except (RuntimeError, AttributeError) as error:
        if "out of memory" in str(error):
            raise
        return False
    return True


def convolve(conv: nn.Conv2d, x: Tensor, fast: Transformed | None = None) -> Tensor:
    """Convolve x (B, C, H, W) -> (B, N, H, W), and add the bias.

    Args:
        conv: the convolution.
        x: its input.
        fast: the transformed weights for Winograd's algorithm, if the layer has any.
    """
    if fast is None or not winograd.pays(x):
        direct: Tensor = conv(x)
        return direct
    if conv.padding_mode == "zeros":
        result = winograd.correlate(x, fast.forward, padding=1)
    else:
        padded = F.pad(x, (1, 1, 1, 1), mode=conv.padding_mode)
        result = winograd.correlate(padded, fast.forward, padding=0)
    if conv.bias is not None:
        result += conv.bias.view(1, -1, 1, 1)
    return result


def convolve_back(
    conv: nn.Conv2d, x: Tensor, gradient: Tensor, fast: Transformed | None = None
) -> Tensor:
    """Apply the convolution's adjoint to a gradient (B, N, H, W) -> (B, C, H, W), as ``x``."""
    if conv.padding_mode == "zeros":
        return _correlate_back(conv, x, gradient, 1, fast)
    B, C, H, W = x.shape
    larger = x.new_empty(B, C, H + 2, W + 2).contiguous(memory_format=torch.channels_last)
    padded = _correlate_back(conv, larger, gradient, 0, fast)
    # Not by PyTorch's adjoint of the padding: on a GPU it adds up in any order, so that the bits
    # differ from call to call.
    source = 1 if conv.padding_mode == "reflect" else 0  # index that a border pixel is a copy of
    for dim in (2, 3):
        inner = padded.narrow(dim, 1, padded.shape[dim] - 2).clone()
        inner.select(dim, source).add_(padded.select(dim, 0))
        inner.select(dim, -1 - source).add_(padded.select(dim, -1))
        padded = inner
    return padded


def _correlate_back(
    conv: nn.Conv2d, x: Tensor, gradient: Tensor, padding: int, fast: Transformed | None
) -> Tensor:
    """Apply the adjoint of a convolution with ``padding`` rows and columns of zeros.

    Only the shape and memory format of ``x`` matter, not its values.
    """
    if fast is not None and winograd.pays(gradient):
        return winograd.correlate(gradient, fast.backward, padding=2 - padding)
    once, none = [1, 1], [0, 0]
    back: Tensor = aten.convolution_backward(
        gradient, x, conv.weight, None, once, [padding] * 2, once, False, none, 1,
        [True, False, False],
    )[0]  # fmt: skip
    return back
