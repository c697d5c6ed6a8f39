"""Pooling and the ReLU before it, forward and backward, in the form that suits the device.

Activations are (B, N, H, W) in channels_last format.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.style.hardware import gpu_passes
from pipeline.style.network.vgg import Block

aten = torch.ops.aten


def pool(block: Block, x: Tensor) -> Tensor:
    """Return the activations ``x`` after the block's pooling, (B, N, H // 2, W // 2)."""
    if by_fours(block, x):
        pooled = gpu_passes.pool(x)
        return mean_of_fours(x) if pooled is None else pooled
    if isinstance(block.pool, nn.AvgPool2d):
        return F.avg_pool2d(x, 2)
    return F.max_pool2d(x, 2)


def pool_backward(block: Block, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient at ``x``, given the gradient after the block's pooling."""
    size = [2, 2]
    if isinstance(block.pool, nn.AvgPool2d):
        back = aten.avg_pool2d_backward(gradient, x, size, size, [0, 0], False, True, None)
    else:
        _, indices = F.max_pool2d(x, 2, return_indices=True)
        back = aten.max_pool2d_with_indices_backward(
            gradient, x, size, size, [0, 0], [1, 1], False, indices
        )
    found: Tensor = back
    return found


def relu_backward(x: Tensor, gradient: Tensor) -> Tensor:
    """Set ``gradient`` to 0 where the rectified ``x`` is 0, in place, and return it."""
    # A new tensor takes half as much time again on a CPU: its memory is not in the cache.
    back: Tensor = aten.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)
    return back


def relu_pool_backward(block: Block, x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient before the ReLU, given the gradient after the block's pooling.

    Args:
        block: its last layer is the one that is rectified and pooled.
        x: that layer's rectified activations (B, N, H, W).
        gradient: (B, N, H // 2, W // 2).

    Returns:
        the gradient (B, N, H, W).
    """
    if by_fours(block, x):
        back = gpu_passes.relu_pool_backward(x, gradient)
        return relu_mean_backward(x, gradient) if back is None else back
    return relu_backward(x, pool_backward(block, x, gradient))


def by_fours(block: Block, x: Tensor) -> bool:
    """Return whether ``mean_of_fours`` and ``relu_mean_backward`` are right and pay.

    They are right for average pooling of even sides. On a GPU PyTorch's own kernels take three
    times as long in channels_last format; on a CPU PyTorch's are faster.
    """
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return x.is_cuda and even and isinstance(block.pool, nn.AvgPool2d)


def mean_of_fours(x: Tensor) -> Tensor:
    """Return the average pooling of ``x`` (B, N, H, W) with even sides."""
    return _fours(x).mean(dim=(2, 4)).permute(0, 3, 1, 2)


def relu_mean_backward(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient before the ReLU, given that after average pooling, in one pass.

    Args:
        x: rectified activations (B, N, H, W) with even sides.
        gradient: (B, N, H / 2, W / 2).

    Returns:
        the gradient (B, N, H, W).
    """
    quarter = (gradient / 4).permute(0, 2, 3, 1)[:, :, None, :, None]
    back: Tensor = aten.threshold_backward(quarter, _fours(x), 0)
    return back.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _fours(x: Tensor) -> Tensor:
    """Return the positions that are pooled together, as a view (B, H/2, 2, W/2, 2, N) of ``x``."""
    B, N, H, W = x.shape
    return x.permute(0, 2, 3, 1).view(B, H // 2, 2, W // 2, 2, N)
