"""Helpers for buffers (B, ...) that hold a part for each slot."""

from torch import Tensor

ELEMENTS_AT_ONCE = {"cpu": 2**22, "cuda": 9 * 2**20}
"""Elements of kept vectors to work on at once when a preconditioner is learnt. On a GPU that is the
P y_i and P g of an image of 512 px, twelve vectors. On a CPU it is the largest block that
``host_memory`` keeps: larger tensors would be returned to the system and faulted in again."""


def select_slot(buffer: Tensor, slot: Tensor) -> Tensor:
    """Copy one slot's part of a buffer (B, ...); slot: (1,), on the buffer's device."""
    return buffer.index_select(0, slot)[0]


def vectors_at_once(vectors: Tensor) -> int:
    """Return how many of the vectors (n, D) to work on at once, at least 1."""
    return max(1, ELEMENTS_AT_ONCE[vectors.device.type] // vectors.shape[1])
