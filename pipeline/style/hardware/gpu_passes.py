"""Calls of the kernels in ``kernels.cu``, each of which makes one pass over memory.

A call returns None, or False, where no kernel can do the work: on a CPU, on a GPU for which the
kernels cannot be compiled, or with sizes that do not fit. The caller then falls back to PyTorch.
Nothing here reads a value back from the device, so a CUDA graph can record all of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.style.hardware.kernels import Kernel, kernel

TYPES = {torch.float16: ("Half", 8), torch.float32: ("float", 4)}
"""Name in ``kernels.cu`` of each activation type, and how many of its values fit into 16 bytes."""

LARGEST_INDEX = 2**31 - 1
"""Largest count that a 32-bit thread index can address."""

THREADS = 256
"""Threads per block, except in the passes of L-BFGS."""

BLOCKS, BLOCK, WARP = 128, 128, 32
"""Blocks per slot, threads per block and threads per warp in the passes of L-BFGS. They are the
same on every GPU, so that sums are taken in the same order everywhere."""

MOST_ROWS = 16
"""Most rows of L-BFGS's history for which a thread can take all sums at once."""

STYLE_FILTERS = (64, 128)
"""Filters of the layers whose Gram matrix fits into a multiprocessor's shared memory."""

TILE, TILES = 128, 8
"""Positions that a block of ``style_backward`` takes at a time, and how often it does."""


def pool(x: Tensor) -> Tensor | None:
    """Average-pool (B, N, H, W) with even sides, in channels_last format."""
    B, N, H, W = x.shape
    pooled = x.new_empty(B, H // 2, W // 2, N).permute(0, 3, 1, 2)
    return pooled if _by_fours("pool", x, pooled) else None


def relu_pool_backward(x: Tensor, gradient: Tensor) -> Tensor | None:
    """Apply the adjoints of average pooling and of the ReLU before it.

    Args:
        x: rectified activations (B, N, H, W) with even sides, in channels_last format.
        gradient: (B, N, H/2, W/2) in channels_last format.
    """
    back = torch.empty_like(x)
    return back if _by_fours("relu_pool_backward", x, gradient, back) else None


def _by_fours(name: str, x: Tensor, pooled: Tensor, *back: Tensor) -> bool:
    """Launch a kernel whose threads each take four neighbouring positions; return if it could."""
    word, size = TYPES.get(x.dtype, ("", 1))
    by_pixels = all(
        each.is_contiguous(memory_format=torch.channels_last) for each in (x, pooled, *back)
    )
    if not word or not by_pixels or x.shape[1] % size or x.numel() // size > LARGEST_INDEX:
        return False
    launch = kernel(f"{name}<{word}>", x)
    if launch is None:
        return False
    n = pooled.numel() // size
    launch((-(-n // THREADS), 1), THREADS, x, pooled, *back, x.shape[3], x.shape[1] // size, n)
    return True


def style_backward(F_t: Tensor, D: Tensor, gradient_t: Tensor) -> bool:
    """Set the gradient to gradient + F D where F > 0, else to 0, in place.

    That is the backward pass of the style loss (equation 6) and of the ReLU.

    Args:
        F_t: F transposed, (B, M, N).
        D: weighted (G - A) / M (B, N, N), symmetric.
        gradient_t: the gradient transposed, (B, M, N).

    Returns:
        Whether the kernel could do it.
    """
    B, M, N = F_t.shape
    contiguous = all(each.is_contiguous() for each in (F_t, D, gradient_t))
    half = F_t.dtype == D.dtype == gradient_t.dtype == torch.float16
    if not half or not contiguous or N not in STYLE_FILTERS:
        return False
    launch = kernel(f"style_backward<{N}>", F_t)
    if launch is None:
        return False
    launch((-(-M // (TILE * TILES)), B), THREADS, F_t, D, gradient_t, M, TILES)
    return True


def enter_network(
    images: Tensor, mean: Tensor, std: Tensor, channels: int, dtype: torch.dtype
) -> Tensor | None:
    """Normalise images as ``VGG.preprocess`` does.

    Args:
        images: (B, 3, H, W), RGB in [0, 1].
        mean: what to subtract, three values.
        std: what to divide by, three values.
        channels: of the result; those after the third are 0.
        dtype: of the result.

    Returns:
        (B, channels, H, W) in channels_last format.
    """
    B, _, H, W = images.shape
    launch = _at_the_border("enter_network", images, channels, dtype)
    if launch is None or images.dtype != torch.float32:
        return None
    x = images.new_empty(B, H, W, channels, dtype=dtype)
    launch((-(-H * W // THREADS), B), THREADS, images.contiguous(), mean, std, x, H * W)
    return x.permute(0, 3, 1, 2)


def leave_network(gradient: Tensor, scale: Tensor, std: Tensor) -> tuple[Tensor, Tensor] | None:
    """Turn the gradient at the network's input into the gradient at the images.

    Args:
        gradient: (B, C, H, W) in channels_last format.
        scale: a factor per slot (B,).
        std: what ``enter_network`` divided by, three values.

    Returns:
        The gradient at the images (B, 3, H, W), and each slot's largest magnitude in it (B,), which
        is NaN if any value is NaN.
    """
    B, C, H, W = gradient.shape
    launch = _at_the_border("leave_network", gradient, C, gradient.dtype)
    if launch is None or not gradient.is_contiguous(memory_format=torch.channels_last):
        return None
    found, largest = scale.new_empty(B, 3, H, W), torch.zeros_like(scale)
    launch((-(-H * W // THREADS), B), THREADS, gradient, scale, std, found, largest, H * W)
    return found, largest


def _at_the_border(name: str, like: Tensor, channels: int, dtype: torch.dtype) -> Kernel | None:
    """Return a kernel that enters or leaves the network with ``channels`` channels of ``dtype``."""
    fits = (dtype, channels) in ((torch.float16, 8), (torch.float32, 3))
    return kernel(f"{name}<{TYPES[dtype][0]}, {channels}>", like) if fits else None


def has_by_ring(like: Tensor) -> bool:
    """Tell whether ``by_ring`` can be used for images like these."""
    return like.dtype == torch.float32 and kernel("by_ring", like) is not None


def by_ring(seen: Tensor, rings: Tensor, ring: Tensor) -> Tensor:
    """Multiply spectra by a matrix for each ring of frequencies; see ``Preconditioner``.

    Args:
        seen: spectra (B, 3, n), complex.
        rings: the matrices (B, rings, 3, 3).
        ring: index of each frequency's ring (n,).

    Raises:
        RuntimeError: there is no such kernel; see ``has_by_ring``.
    """
    B, _, n = seen.shape
    launch = kernel("by_ring", seen)
    if launch is None:
        raise RuntimeError(f"no kernel by_ring on {seen.device}; ask has_by_ring first")
    seen = seen.contiguous()
    moved = torch.empty_like(seen)
    launch((-(-n // THREADS), B), THREADS, seen, rings, ring, moved, rings.shape[1], n)
    return moved


@dataclass(frozen=True)
class Remembered:
    """Sums that L-BFGS takes while it stores an evaluation.

    Attributes:
        y: products of y with the kept vectors (B, K).
        g: products of g with the kept vectors (B, K).
        ss: s . s (B,).
        yy: y . y (B,).
        largest: largest magnitude in P g (B,).
    """

    y: Tensor
    g: Tensor
    ss: Tensor
    yy: Tensor
    largest: Tensor


def remember(
    basis: Tensor,
    differences: Tensor,
    accepted: Tensor,
    x: Tensor,
    gradient: Tensor,
    Pg: Tensor,
    accept: Tensor,
    rows: Tensor,
) -> Remembered | None:
    """Store an evaluation in L-BFGS's buffers; see ``CurvatureHistory.store``."""
    B, K, D = basis.shape
    launch = _of_history("remember", basis)
    if launch is None:
        return None
    sums = x.new_empty(B, BLOCKS * BLOCK // WARP, 2 * K + 3)
    launch(
        (BLOCKS, B), BLOCK, basis, differences, accepted, x, gradient.contiguous(),
        Pg.contiguous(), accept, rows, sums, D // 4,
    )  # fmt: skip
    totals = sums[:, :, :-1].double().sum(dim=1)
    return Remembered(
        y=totals[:, :K],
        g=totals[:, K : 2 * K],
        ss=totals[:, -2],
        yy=totals[:, -1],
        largest=sums[:, :, -1].amax(dim=1),
    )


def move(
    basis: Tensor,
    coefficients: Tensor,
    accepted: Tensor,
    gradient: Tensor,
    t: Tensor,
    moving: Tensor,
    x: Tensor,
    bounds: tuple[float, float],
) -> Tensor | None:
    """Set x to accepted + t (coefficients . basis), within the bounds.

    Args:
        basis: kept vectors (B, K, D).
        coefficients: of the direction in this basis (B, K).
        accepted: where the step begins (B, D).
        gradient: the gradient there (B, D).
        t: step length (B,).
        moving: (B,) bool; where it is false, x becomes ``accepted``.
        x: (B, D), written in place.
        bounds: least and greatest value of x.

    Returns:
        gradient . (step within the bounds), (B,), whether moving or not.
    """
    B, _, D = basis.shape
    launch = _of_history("move", basis)
    if launch is None:
        return None
    slopes = x.new_empty(B, BLOCKS * BLOCK // WARP)
    launch(
        (BLOCKS, B), BLOCK, basis, coefficients.to(x), accepted, gradient, t, moving, x, slopes,
        *map(float, bounds), D // 4,
    )  # fmt: skip
    return slopes.sum(dim=1)


def _of_history(name: str, basis: Tensor) -> Kernel | None:
    """Return a kernel for a history of this size."""
    _, K, D = basis.shape
    # The kernels expect the slots' parts of a vector next to each other, see ``CurvatureHistory``.
    dense = basis.transpose(0, 1).is_contiguous()
    fits = K // 2 <= MOST_ROWS and D % 4 == 0 and basis.dtype == torch.float32 and dense
    return kernel(f"{name}<{K // 2}>", basis) if fits else None
