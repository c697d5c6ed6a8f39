"""Which samples of a source one DataLoader worker of one rank reads, and in which order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.distributed
from torch.utils.data import get_worker_info

Sample = tuple[int, Any]
"""A sample, and its position in the whole order."""


@dataclass(frozen=True)
class Share:
    """One worker's share.

    Samples go to the ranks in turn, and those of a rank to its workers in turn. All ranks get the
    same number of samples, because one rank with a batch more than the others would wait for them
    for ever.

    Attributes:
        rank: of the process in ``torch.distributed``.
        ranks: number of such processes.
        worker: number of the DataLoader worker.
        workers: number of workers of each rank.
    """

    rank: int
    ranks: int
    worker: int
    workers: int

    def of_indexed(self, source: Any, shuffle: torch.Generator | None) -> Iterator[Sample]:
        """Yield the share of a map-style data set; the first samples again where ranks lack some.

        Args:
            source: has a length and indices.
            shuffle: a generator that is in the same state in all workers of all ranks; None for
                the source's own order.
        """
        count = len(source)
        order = (
            range(count)
            if shuffle is None
            else torch.randperm(count, generator=shuffle, device="cpu")
        )
        first = self.rank + self.ranks * self.worker
        for position in range(first, self.ranks * self.count(count), self.ranks * self.workers):
            yield position, source[int(order[position % count])]

    def of_stream(self, source: Iterable[Any]) -> Iterator[Sample]:
        """Yield the share of an iterable source.

        The last samples are left out if there are not enough for all ranks.
        """
        samples = iter(source)
        turn = 0
        while len(of_all := list(islice(samples, self.ranks))) == self.ranks:
            if turn % self.workers == self.worker:
                yield turn * self.ranks + self.rank, of_all[self.rank]
            turn += 1

    def count(self, samples: int) -> int:
        """Return how many of so many samples of a map-style data set a rank gets."""
        return -(-samples // self.ranks)


def ranks_here() -> tuple[int, int] | None:
    """Return this process's rank in ``torch.distributed``, and the number of ranks, if it has any.

    A process that is spawned may join the ranks only later.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return None


def share_here(ranks: tuple[int, int] | None) -> Share:
    """Return the share of this process.

    Args:
        ranks: rank and number of ranks, where the process that started this one knew them.
    """
    info = get_worker_info()
    rank, count = ranks_here() or ranks or (0, 1)
    return Share(rank, count, info.id if info else 0, info.num_workers if info else 1)
