"""Pair ids as 8-byte hashes, so that a driver holds millions of them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def hash_ids(ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return an 8-byte hash of each id; hashes of different processes cannot be compared."""
    return np.fromiter(map(hash, ids), dtype=np.int64)


def among(hashes: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which hashes are in ``known``.

    Args:
        hashes: in any order.
        known: sorted. (``np.isin`` would sort it again at each call.)
    """
    if not len(known):
        return np.zeros(len(hashes), np.bool_)
    places = np.searchsorted(known, hashes).clip(max=len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == hashes
    return found
