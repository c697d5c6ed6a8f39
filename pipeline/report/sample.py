"""Which pairs the page lists when there are too many for one page."""

import heapq

import numpy as np

from pipeline.report.facts import Facts

MOST_PAIRS = 20_000
"""Most pairs listed, some 8 MB of the page. The counts are over all pairs all the same."""

MOST_ERRORS = 5_000
"""Most errors among the pairs listed."""

EXTREMES = 12
"""Pairs with the lowest loss, and as many with the highest, that are always listed."""


def choose_pairs(facts: Facts) -> set[int]:
    """Return the keys of the pairs to list.

    These are all pairs if they fit. Otherwise they are the errors, the extremes of the loss and a
    random sample, which is the same in every report.
    """
    failed, done = facts.keys[~facts.ok], facts.keys[facts.ok]
    if len(facts.keys) <= MOST_PAIRS:
        return set(facts.keys.tolist())
    errors = heapq.nsmallest(MOST_ERRORS, failed.tolist())
    extremes = extreme_keys(facts)
    sample = heapq.nsmallest(MOST_PAIRS - len(errors) - len(extremes), done.tolist())
    return {*errors, *extremes, *sample}


def extreme_keys(facts: Facts) -> list[int]:
    """Return the keys of the pairs with the lowest and the highest losses."""
    order = np.argsort(facts.losses, kind="stable")  # those without a loss come last
    order = order[: np.isfinite(facts.losses).sum()]
    ends = np.concatenate([order[:EXTREMES], order[EXTREMES:][-EXTREMES:]])
    return [int(key) for key in facts.keys[ends]]
