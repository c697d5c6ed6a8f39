"""Drawing styles for a content image and naming pairs, from names alone and never from order.

A *key* is a path below the folder that was listed. So the same files under another root have the
same styles and ids.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.names import derive_id

Hashes = npt.NDArray[np.uint64]
"""64-bit hashes of keys."""

FEW = 32
"""Most styles per content image for which the smallest numbers are picked one by one."""


def hash_key(*parts: str | int) -> int:
    """Return 64 bits over several names; their boundaries count."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hash_keys(keys: Sequence[str], *before: str | int) -> Hashes:
    """Return the hash of each of many keys, with the names ``before`` in front of it."""
    return np.array([hash_key(*before, key) for key in keys], dtype=np.uint64)


def share(*parts: str | int) -> float:
    """Return a number of at least 0 and below 1 that depends on several names alone."""
    return (hash_key(*parts) >> 11) * 2.0**-53


def choose(
    seed: int,
    content_keys: Sequence[str],
    style_hashes: Hashes,
    count: int,
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.intp]:
    """Draw different styles for each content image at random.

    Each style has a number that depends on seed, content and style, and the smallest numbers win.
    So a larger ``count`` adds styles to those already drawn, and adding or removing a style changes
    only the content images that get it or had it.

    Args:
        seed: another seed gives other draws.
        content_keys: keys of the content images.
        style_hashes: ``hash_keys`` of the styles' keys.
        count: styles per content image, at most ``len(style_hashes)``.
        weights: above 0, one for each style: of a content image's first style, each has this share.
            Equal ones give the same draws as None.

    Returns:
        (contents, count) indices into ``style_hashes``.
    """
    contents = hash_keys(content_keys, seed)
    drawn: npt.NDArray[Any] = _mix(contents[:, None] ^ style_hashes[None, :])
    if weights is not None:
        # Exponential waiting times (Efraimidis and Spirakis 2006), smaller for larger weights.
        drawn = -np.log1p(-((drawn >> np.uint64(11)) * 2.0**-53)) / weights
    highest = np.inf if weights is not None else np.iinfo(np.uint64).max
    if count > FEW:
        return np.argsort(drawn, axis=1)[:, :count]
    chosen = np.empty((len(contents), count), dtype=np.intp)
    for replica in range(count):  # takes a tenth of the time of numpy's partition
        chosen[:, replica] = drawn.argmin(axis=1)
        np.put_along_axis(drawn, chosen[:, replica, None], highest, axis=1)
    return chosen


def _mix(values: Hashes) -> Hashes:
    """Permute the 64-bit numbers, in place, so that they look random: splitmix64's finaliser."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    return values


def pair_id(content_key: str, style_key: str, label: str | None = None) -> str:
    """Return the id of a pair, such as ``cat--starry_night--0123456789abcdef``, after its label.

    It is safe as a file name, has no dot and at most 200 bytes. It depends on nothing but the pair,
    so that manifests with more styles per content image, or crossed ones, use the same id.
    """
    digest = f"{hash_key(content_key, style_key):016x}"
    return derive_id(label, content_key, [style_key], digest)
