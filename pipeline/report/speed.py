"""How many pairs were finished when, for the chart of the speed."""

from typing import Any

import numpy as np

from pipeline.report.facts import Facts

INTERVALS = 60
"""Most intervals into which the time of all runs is divided."""

NICE_SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800),
)
"""Lengths that an interval may have, seconds."""


def throughput(facts: Facts) -> dict[str, Any]:
    """Count the pairs finished in each interval of time, ok and failed, run by run.

    A run ends where nothing was finished for ten minutes and for as long as fifty batches take,
    because results are written in blocks of several batches.

    Returns:
        ``width``, the length of an interval in seconds; and ``runs``, each with the ``start`` of
        its first interval, its ``first`` and ``last`` moment of success or failure (all in seconds
        since 1970), and the counts ``ok`` and ``error`` of each interval.
    """
    known = facts.finished > 0
    order = np.argsort(facts.finished[known], kind="stable")
    times, ok = facts.finished[known][order], facts.ok[known][order]
    if not len(times):
        return {"width": 1, "runs": []}
    gaps = np.diff(times)
    pause = max(600.0, 50 * facts.longest_batch)
    ends = np.flatnonzero(gaps > pause) + 1
    span = int(times[-1] - times[0] - gaps[gaps > pause].sum())
    width = next((nice for nice in NICE_SECONDS if nice * INTERVALS >= span), NICE_SECONDS[-1])
    runs = []
    for part, good in zip(np.split(times, ends), np.split(ok, ends), strict=True):
        start = int(part[0]) // width * width
        place = (part - start) // width
        length = int(place[-1]) + 1
        counts = [np.bincount(place[good == wanted], minlength=length) for wanted in (True, False)]
        runs.append(
            {
                "start": start,
                "first": int(part[0]),
                "last": int(part[-1]),
                "ok": counts[0].tolist(),
                "error": counts[1].tolist(),
            }
        )
    return {"width": width, "runs": runs}
