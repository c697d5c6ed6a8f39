"""Which styles a content gets, and what a pair is called: functions of names, never of order.

A *key* is a path below the folder that was listed, so the same files under another root make the
same choices and ids.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.names import derive_id

Hashes = npt.NDArray[np.uint64]

FEW = 32
"""Styles per content up to which the smallest numbers are picked one by one."""


def hash_key(*parts: str | int) -> int:
    """64 bits of some names, each told from the next."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hash_keys(keys: Sequence[str], *before: str | int) -> Hashes:
    """The hashes of many names, with the same names before each."""
    return np.array([hash_key(*before, key) for key in keys], dtype=np.uint64)


def choose(
    seed: int, content_keys: Sequence[str], style_hashes: Hashes, count: int
) -> npt.NDArray[np.intp]:
    """Different styles for each content, uniformly at random: (contents, count) style indices.

    Each style draws a number from (seed, content, style), and the smallest numbers win. So the
    first styles stay when ``count`` grows, and a style that comes or goes changes only the
    contents that get it or had it.

    Args:
        seed: another seed draws other styles.
        content_keys: paths of the contents below their folder.
        style_hashes: ``hash_keys`` of the styles' keys.
        count: styles per content, at most ``len(style_hashes)``.
    """
    contents = hash_keys(content_keys, seed)
    drawn = _mix(contents[:, None] ^ style_hashes[None, :])
    if count > FEW:
        return np.argsort(drawn, axis=1)[:, :count]
    chosen = np.empty((len(contents), count), dtype=np.intp)
    for replica in range(count):  # a tenth of the time of numpy's partition
        chosen[:, replica] = drawn.argmin(axis=1)
        np.put_along_axis(drawn, chosen[:, replica, None], np.iinfo(np.uint64).max, axis=1)
    return chosen


def _mix(values: Hashes) -> Hashes:
    """A permutation of the 64-bit numbers that looks random, in place: splitmix64's finaliser."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    return values


def pair_id(content_key: str, style_key: str, label: str | None = None) -> str:
    """Return ``cat--starry_night--0123456789abcdef``, with the label before it if there is one.

    It is the pair's alone, however it was chosen: a manifest with more styles per content, or a
    crossed one, calls it the same.
    """
    digest = f"{hash_key(content_key, style_key):016x}"
    return derive_id(label, content_key, [style_key], digest)
