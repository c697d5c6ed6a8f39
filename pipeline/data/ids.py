"""Pair ids as 8-byte hashes, so that a driver holds millions of them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def hash_ids(ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """8 bytes for each id, comparable within this process: a million of them fit in a driver."""
    return np.fromiter(map(hash, ids), dtype=np.int64)


def among(hashes: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of ``hashes`` are in ``known``, which is sorted. (``np.isin`` would sort it anew.)"""
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == hashes
    return found
