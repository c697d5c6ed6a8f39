"""Winograd's convolution F(4x4, 3x3): a quarter of the multiplications of a direct one.

Lavin and Gray, arXiv 1509.09308, section 4.3. GPU libraries have it. oneDNN has it only for CPUs
with AVX-512, and PyTorch does not request it. The cost of the transforms is spread over the
filters, so it pays for the deeper layers, which have many.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.style.network.vgg import VGG

TILE = 4
"""Side of an output tile, in pixels. Input tiles are 2 px larger and overlap their neighbours."""

LEAST_FILTERS = 80
"""Fewest filters of a layer, and of the one before it, for which the transforms pay.

From 48 on they do with AVX2, where PyTorch's own convolution is slower."""

LEAST_TILES = 16
"""Fewest tiles for which it pays. For fewer, loading the transformed weights from memory takes
longer than the arithmetic."""

BAND = 128
"""Approximate number of tiles transformed at a time, so that they stay in the CPU's cache."""

INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""B^T of the paper."""

WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""G of the paper."""

OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""A^T of the paper."""


class Transformed(NamedTuple):
    """A layer's transformed weights for ``correlate``.

    Attributes:
        forward: those of the convolution (36, C, N).
        backward: those of its adjoint (36, N, C).
    """

    forward: Tensor
    backward: Tensor


_cache: WeakKeyDictionary[VGG, dict[str, Transformed]] = WeakKeyDictionary()


def transforms(network: VGG) -> dict[str, Transformed]:
    """Return the transformed weights of each layer that they pay for, by layer name.

    Only a network in float32 on a CPU has any. They take eight times the layers' own memory (411 MB
    for VGG-19, 59 MB for ``compact``) and are cached per network, whose weights must not change
    afterwards.
    """
    if network.device.type != "cpu" or network.dtype != torch.float32:
        return {}
    if network not in _cache:
        _cache[network] = {
            layer: transform(conv.weight)
            for block in network.blocks
            for layer, conv in block.convs
            if min(conv.weight.shape[:2]) >= LEAST_FILTERS
        }
    return _cache[network]


def transform(weight: Tensor) -> Transformed:
    """Transform the weights g (N, C, 3, 3) of a convolution, and of its adjoint, to G g G^T."""
    return Transformed(_transform(weight), _transform(weight.flip(2, 3).transpose(0, 1)))


def _transform(weight: Tensor) -> Tensor:
    N, C = weight.shape[:2]
    G = torch.tensor(WEIGHT, dtype=torch.float64)
    U = torch.kron(G, G) @ weight.double().permute(2, 3, 1, 0).reshape(9, C * N)
    return U.to(weight).view(36, C, N)


def pays(x: Tensor) -> bool:
    """Tell whether x (B, C, H, W) has enough tiles."""
    B, _, H, W = x.shape
    return B * -(-H // TILE) * -(-W // TILE) >= LEAST_TILES


def correlate(x: Tensor, U: Tensor, padding: int) -> Tensor:
    """Compute ``conv2d`` of x with zero padding, without a bias.

    Args:
        x: (B, C, H, W).
        U: transformed weights (36, C, N).
        padding: rows and columns of zeros on each side.

    Returns:
        (B, N, H + 2 padding - 2, W + 2 padding - 2), in channels_last format.
    """
    B, C, H, W = x.shape
    H, W, N = H + 2 * padding - 2, W + 2 * padding - 2, U.shape[2]
    high, wide = -(-H // TILE), -(-W // TILE)
    below, right = padding + high * TILE - H, padding + wide * TILE - W
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, right, padding, below)).contiguous()
    image, row = padded.stride(0), padded.stride(1)
    result = x.new_empty(B, high * TILE, wide * TILE, N)
    group = max(1, BAND // (high * wide))
    band = min(high, max(1, BAND // wide))
    for first, top in itertools.product(range(0, B, group), range(0, high, band)):
        images, rows = min(group, B - first), min(band, high - top)
        size = (6, 6, images, rows, wide, C)
        strides = (row, C, image, TILE * row, TILE * C, 1)
        tiles = padded.as_strided(size, strides, first * image + top * TILE * row)
        V = _both_ways(INPUT, x.dtype) @ tiles.reshape(36, -1)
        M = torch.bmm(V.view(36, -1, C), U)
        Y = (_both_ways(OUTPUT, x.dtype) @ M.view(36, -1)).view(TILE, TILE, images, rows, wide, N)
        place = result[first : first + images, top * TILE : (top + rows) * TILE]
        place.view(images, rows, TILE, wide, TILE, N).copy_(Y.permute(2, 3, 0, 4, 1, 5))
    return result[:, :H, :W].contiguous().permute(0, 3, 1, 2)


@functools.cache
def _both_ways(matrix: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    """Return K for which K d = matrix d matrix^T, where tiles d are written as columns (36, n).

    The two products with the matrix have fewer multiplications, but pass over memory twice.
    """
    one_way = torch.tensor(matrix, dtype=dtype)
    return torch.kron(one_way, one_way)
