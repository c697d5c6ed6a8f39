"""A layer: its convolution with the ReLU, the adjoint; directly, by cuDNN in one kernel, or by
Winograd's algorithm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.style import winograd
from pipeline.style.winograd import Transformed

aten = torch.ops.aten


def activate(conv: nn.Conv2d, x: Tensor, fast: Transformed | None = None) -> Tensor:
    """A layer's rectified activations F = max(0, conv(x)): x (B, C, H, W) -> (B, N, H, W).

    Args:
        fast: see ``convolve``.
    """
    if not _in_one_kernel(conv, x):
        return F.relu_(convolve(conv, x, fast))
    padding = 1
    if conv.padding_mode != "zeros":
        x, padding = F.pad(x, (1, 1, 1, 1), mode=conv.padding_mode), 0
    once = [1, 1]
    # Else bias and ReLU read and write all activations once more each: on a GPU, where memory is
    # what is scarce, that is up to half of a layer's time.
    fused: Tensor = aten.cudnn_convolution_relu(
        x, conv.weight, conv.bias, once, [padding] * 2, once, 1
    )
    return fused


def in_tf32() -> bool:
    """Whether PyTorch convolves float32 in TF32, where the GPU can: by default it does."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # set by PyTorch's newer switches, for parts in different ways
        return True


def _in_one_kernel(conv: nn.Conv2d, x: Tensor) -> bool:
    on_cudnn = x.is_cuda and torch.version.cuda is not None and torch.backends.cudnn.enabled
    return on_cudnn and conv.bias is not None and x.dtype != torch.float64


def convolve(conv: nn.Conv2d, x: Tensor, fast: Transformed | None = None) -> Tensor:
    """The convolution of x (B, C, H, W) -> (B, N, H, W).

    Args:
        fast: its transformed weights, where it has some.
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
    """The adjoint of the convolution: gradient (B, N, H, W) -> (B, C, H, W), ``x``'s shape."""
    if conv.padding_mode == "zeros":
        return _correlate_back(conv, x, gradient, 1, fast)
    B, C, H, W = x.shape
    larger = x.new_empty(B, C, H + 2, W + 2).contiguous(memory_format=torch.channels_last)
    padded = _correlate_back(conv, larger, gradient, 0, fast)
    if conv.padding_mode == "reflect":
        back = aten.reflection_pad2d_backward(padded, x, [1, 1, 1, 1])
    else:
        back = aten.replication_pad2d_backward(padded, x, [1, 1, 1, 1])
    found: Tensor = back
    return found


def _correlate_back(
    conv: nn.Conv2d, x: Tensor, gradient: Tensor, padding: int, fast: Transformed | None
) -> Tensor:
    """x: gives the result's shape and memory format, so that it need not be copied; not read."""
    if fast is not None and winograd.pays(gradient):
        return winograd.correlate(gradient, fast.backward, padding=2 - padding)
    once, none = [1, 1], [0, 0]
    back: Tensor = aten.convolution_backward(
        gradient, x, conv.weight, None, once, [padding] * 2, once, False, none, 1,
        [True, False, False],
    )[0]  # fmt: skip
    return back
