"""What ``kernels.cu`` computes, each in one pass over memory; None, or False, where it cannot.

Then the caller does with PyTorch's own operations: on a CPU, on a GPU without these kernels, where
sizes do not fit. Nothing here asks the device for a value; a CUDA graph can hold all of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.style.hardware.kernels import Kernel, kernel

TYPES = {torch.float16: ("Half", 8), torch.float32: ("float", 4)}
"""Of activations: what ``kernels.cu`` calls them, and how many it takes at once."""

MOST = 2**31 - 1
"""Of what is numbered by a kernel's threads."""

THREADS = 256

BLOCKS, BLOCK, WARP = 128, 128, 32
"""Blocks for each sample in L-BFGS's passes, their threads, and of these those that add up
together: as many on every GPU, so that sums are taken in one order everywhere."""

MOST_ROWS = 16
"""Of L-BFGS's history, that a thread can add up side by side."""

STYLE_FILTERS = (64, 128)
"""Filters of layers whose Gram matrix fits into a processor's own memory."""

TILE, TILES = 128, 8
"""Positions that a block works on at a time, and how many times."""


def pool(x: Tensor) -> Tensor | None:
    """Average pooling of (B, N, H, W) of even sides, in channels_last format."""
    B, N, H, W = x.shape
    pooled = x.new_empty(B, H // 2, W // 2, N).permute(0, 3, 1, 2)
    return pooled if _by_fours("pool", x, pooled) else None


def relu_pool_backward(x: Tensor, gradient: Tensor) -> Tensor | None:
    """The adjoints of average pooling and of the ReLU before it, at the rectified ``x``.

    x: (B, N, H, W) of even sides; gradient: (B, N, H/2, W/2); both in channels_last format.
    """
    back = torch.empty_like(x)
    return back if _by_fours("relu_pool_backward", x, gradient, back) else None


def _by_fours(name: str, x: Tensor, pooled: Tensor, *back: Tensor) -> bool:
    word, size = TYPES.get(x.dtype, ("", 1))
    by_pixels = all(
        each.is_contiguous(memory_format=torch.channels_last) for each in (x, pooled, *back)
    )
    if not word or not by_pixels or x.shape[1] % size or x.numel() // size > MOST:
        return False
    launch = kernel(f"{name}<{word}>", x)
    if launch is None:
        return False
    n = pooled.numel() // size
    launch((-(-n // THREADS), 1), THREADS, x, pooled, *back, x.shape[3], x.shape[1] // size, n)
    return True


def style_backward(F_t: Tensor, D: Tensor, gradient_t: Tensor) -> bool:
    """gradient + F D where F > 0, else 0, in place: the style loss's way back with the ReLU's.

    Args:
        F_t, gradient_t: (B, M, N) in memory.
        D: (B, N, N), symmetric.

    Returns:
        whether it was done.
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
    """Images (B, 3, H, W) in [0, 1] as the network wants them: (B, channels, H, W)."""
    B, _, H, W = images.shape
    launch = _at_the_border("enter_network", images, channels, dtype)
    if launch is None or images.dtype != torch.float32:
        return None
    x = images.new_empty(B, H, W, channels, dtype=dtype)
    launch((-(-H * W // THREADS), B), THREADS, images.contiguous(), mean, std, x, H * W)
    return x.permute(0, 3, 1, 2)


def leave_network(gradient: Tensor, scale: Tensor, std: Tensor) -> tuple[Tensor, Tensor] | None:
    """The gradient at the network's input (B, C, H, W), times scale (B,), -> that at the images
    (B, 3, H, W), and the largest of its magnitudes (B,), not a number if one of them is none."""
    B, C, H, W = gradient.shape
    launch = _at_the_border("leave_network", gradient, C, gradient.dtype)
    if launch is None or not gradient.is_contiguous(memory_format=torch.channels_last):
        return None
    found, largest = scale.new_empty(B, 3, H, W), torch.zeros_like(scale)
    launch((-(-H * W // THREADS), B), THREADS, gradient, scale, std, found, largest, H * W)
    return found, largest


def _at_the_border(name: str, like: Tensor, channels: int, dtype: torch.dtype) -> Kernel | None:
    fits = (dtype, channels) in ((torch.float16, 8), (torch.float32, 3))
    return kernel(f"{name}<{TYPES[dtype][0]}, {channels}>", like) if fits else None


def has_by_ring(like: Tensor) -> bool:
    """Whether ``by_ring`` is there for images of this type on this device."""
    return like.dtype == torch.float32 and kernel("by_ring", like) is not None


def by_ring(seen: Tensor, rings: Tensor, ring: Tensor) -> Tensor:
    """Spectra times the matrix of each frequency's ring, where ``has_by_ring``.

    Args:
        seen: (B, 3, n), complex.
        rings: (B, rings, 3, 3).
        ring: of each frequency (n,).
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
    """y, g: their products with the kept vectors (B, K). ss, yy: s . s and y . y (B,). largest: of
    the magnitudes of P g (B,)."""

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
    slots: Tensor,
) -> Remembered | None:
    """L-BFGS takes an evaluation; see ``LBFGS._remember``, and there for the shapes."""
    B, K, D = basis.shape
    launch = _of_history("remember", basis)
    if launch is None:
        return None
    sums = x.new_empty(B, BLOCKS * BLOCK // WARP, 2 * K + 3)
    launch(
        (BLOCKS, B), BLOCK, basis, differences, accepted, x, gradient.contiguous(),
        Pg.contiguous(), accept, slots, sums, D // 4,
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
    """x = accepted + t (coefficients . basis), within the bounds, where ``moving``, else accepted.

    Returns:
        gradient . (that step), (B,).
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
    _, K, D = basis.shape
    # The passes read samples that lie side by side, see ``LBFGS``.
    dense = basis.transpose(0, 1).is_contiguous()
    fits = K // 2 <= MOST_ROWS and D % 4 == 0 and basis.dtype == torch.float32 and dense
    return kernel(f"{name}<{K // 2}>", basis) if fits else None
