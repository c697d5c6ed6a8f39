"""The matrix products of the style loss, in the form that suits the device.

A GPU computes them with the kernels of ``kernels.cu`` where those fit, in TF32 where its
convolutions are, and cuts long sums into parts. A CPU calls the library once.
"""

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.convolution import in_tf32
from pipeline.style.hardware.pooling import relu_backward

LEAST_POSITIONS = 2048
"""Fewest positions in one part of a Gram matrix's sum on a GPU."""

_switching = threading.Lock()


def widen(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if its type is narrower, else ``x`` itself."""
    return x.float() if x.itemsize < 4 else x


def gram_of_rows(F_t: Tensor) -> Tensor:
    """Return G = F F^T (equation 3), summed in float32 or wider.

    Args:
        F_t: F transposed, (B, M, N).

    Returns:
        G (B, N, N).
    """
    if not F_t.is_cuda:
        wide = widen(F_t)
        return torch.bmm(wide.transpose(1, 2), wide)
    M = F_t.shape[1]
    # The largest power of 2 that divides M and leaves LEAST_POSITIONS in each part.
    return gram_in_parts(F_t, math.gcd(M, 1 << (M // LEAST_POSITIONS | 1).bit_length() - 1))


def gram_in_parts(F_t: Tensor, parts: int) -> Tensor:
    """Return what ``gram_of_rows`` does, with the sum over M cut into ``parts``.

    Without the cut a long sum keeps only a few of a GPU's processors busy.
    """
    B, M, N = F_t.shape
    rows = F_t.reshape(B * parts, M // parts, N)
    columns = rows.transpose(1, 2)
    # ROCm cannot widen inside the product.
    if F_t.itemsize < 4 and torch.version.hip is None:
        products = torch.bmm(columns, rows, out_dtype=torch.float32)
    else:
        products = torch.bmm(widen(columns), widen(rows))
    return products.view(B, parts, N, N).sum(dim=1)


def add_product_and_rectify(F: Tensor, D: Tensor, gradient: Tensor) -> Tensor:
    """Return ``gradient + D F`` where F > 0, else 0 (equation 6).

    Args:
        F: activations (B, N, H, W), in channels_last format.
        D: the weighted difference of Gram matrices (B, N, N), symmetric.
        gradient: (B, N, H, W), in channels_last format. It is overwritten.

    Returns:
        ``gradient``.
    """
    B, N, H, W = F.shape
    F_t = F.permute(0, 2, 3, 1).reshape(B, H * W, N)
    gradient_t = gradient.permute(0, 2, 3, 1).view(B, H * W, N)
    if gpu_passes.style_backward(F_t, D, gradient_t):
        return gradient
    # D is symmetric, so the transpose of D F is F^T D.
    with _precision_of_convolutions(F_t):
        gradient_t.baddbmm_(F_t, D)
    return relu_backward(F, gradient)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set ``torch.set_float32_matmul_precision`` of the process for a while.

    Raises:
        RuntimeError: the process uses PyTorch's newer precision switches.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _precision_of_convolutions(x: Tensor) -> Iterator[None]:
    """Multiply float32 matrices on a GPU in TF32 if its convolutions are in TF32 (the default).

    Only gradients may be rounded like this. The losses are small differences of large sums, so
    their products stay in float32. The switch belongs to the process: one thread at a time has it.
    """
    with contextlib.ExitStack() as stack:
        if x.is_cuda and x.dtype == torch.float32:
            stack.enter_context(_switching)
            # Raises if the process uses PyTorch's newer precision switches. Those then decide.
            with contextlib.suppress(RuntimeError):
                if in_tf32():
                    stack.enter_context(matmul_precision("high"))
        yield
