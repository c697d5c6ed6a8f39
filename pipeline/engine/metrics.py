"""The job's metrics in Ray's Prometheus endpoints. Ray exports each as ``ray_<name>``.

Ray adds ``WorkerId`` to each series, so what an actor counts can be told by actor. In a process
without Ray, nothing is counted and nothing fails.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ray.util import metrics

if TYPE_CHECKING:  # load and store tasks count too, and torch costs each 3 seconds and 500 MB
    import torch

INTERVAL = 1.0
"""Seconds between two looks at an actor's own counts: Ray exports no oftener."""

REPORT_INTERVAL = 5.0
"""Most seconds between two reports to the board, which hears of every actor.

The first reports follow each other sooner, so that the time left is known early.
"""


@dataclass(frozen=True, kw_only=True)
class Definition:
    """One metric.

    Attributes:
        kind: Prometheus's kind of metric.
        text: its description.
        tags: names of its tags.
        bounds: upper bounds of a histogram's buckets.
    """

    kind: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _steps(first: int, last: int) -> tuple[float, ...]:
    """Return 1, 2 and 5 times the powers of ten from ``first`` to before ``last``.

    Ray replaces a value by the middle of its bucket, so coarse buckets would falsify means.
    """
    return tuple(float(f"{digit}e{power}") for power in range(first, last) for digit in (1, 2, 5))


METRICS: dict[str, Definition] = {
    "style_pairs_done": Definition(kind="counter", text="Pairs recorded as ok"),
    "style_pairs_failed": Definition(
        kind="counter", text="Pairs recorded as error", tags=("error_class",)
    ),
    "style_pairs_optimized": Definition(kind="counter", text="Pairs an actor brought to the end"),
    "style_evaluations": Definition(kind="counter", text="Evaluations of a pair's loss, gradient"),
    "style_slot_evaluations": Definition(
        kind="counter", text="The same and those of slots without a pair"
    ),
    "style_cache_hits": Definition(kind="counter", text="Style targets found in the cache"),
    "style_cache_misses": Definition(kind="counter", text="Style targets that were computed"),
    "style_slots": Definition(kind="gauge", text="Slots of the last finished pair's lane"),
    "style_gpu_memory_bytes": Definition(
        kind="gauge", text="Most GPU memory that the actor's tensors have held"
    ),
    "style_loss": Definition(
        kind="histogram",
        text="total_loss of finished pairs",
        bounds=_steps(-4, 11),
    ),
    "style_stage_seconds": Definition(
        kind="histogram",
        text="Seconds of a pair in a stage",
        tags=("stage",),
        bounds=_steps(-3, 4),
    ),
}


@functools.cache
def _metric(name: str) -> Any:
    found = METRICS[name]
    if found.kind == "counter":
        return metrics.Counter(name, found.text, found.tags)
    if found.kind == "gauge":
        return metrics.Gauge(name, found.text, found.tags)
    return metrics.Histogram(name, found.text, list(found.bounds), found.tags)


def stored(record: Mapping[str, Any]) -> None:
    """Count a pair's record: ok or failed, its loss, its seconds by stage."""
    if record["status"] == "ok":
        _metric("style_pairs_done").inc()
        if record["total_loss"] is not None:  # an original has none
            _metric("style_loss").observe(record["total_loss"])
    else:
        _metric("style_pairs_failed").inc(tags={"error_class": record["error_class"]})
    for stage in ("load", "optimize", "store"):
        if (seconds := record.get(f"{stage}_seconds")) is not None:
            _metric("style_stage_seconds").observe(seconds, {"stage": stage})


def optimized(slots: int) -> None:
    """Count a pair that an actor has finished, in a lane with ``slots`` slots."""
    _metric("style_pairs_optimized").inc()
    _metric("style_slots").set(slots)


class Meter:
    """Sends an actor's running totals to Ray and to the board from time to time.

    Args:
        totals: returns the values of the counters so far, by name.
        device: the actor's device.
        report: reports to the board, given the GPU's utilisation in percent, or None.
    """

    def __init__(
        self,
        totals: Callable[[], dict[str, int]],
        device: "torch.device",
        report: Callable[[float | None], None],
    ) -> None:
        self.totals, self.device, self.report = totals, device, report
        self.sent: dict[str, int] = {}
        self.due, self.report_due, self.report_interval = 0.0, 0.0, INTERVAL

    def look(self, *, idle: bool) -> None:
        """Send what is new, at most once a second.

        Args:
            idle: whether no pair is under way. Then it is sent at once.
        """
        now = time.monotonic()
        if not idle and now < self.due:
            return
        self.due = now + INTERVAL
        totals = self.totals()
        for name, value in totals.items():
            if value > self.sent.get(name, 0):
                _metric(name).inc(value - self.sent.get(name, 0))
        self.sent = totals
        if self.device.type == "cuda":
            import torch

            held = torch.cuda.max_memory_allocated(self.device)
            _metric("style_gpu_memory_bytes").set(held)
        if idle or now >= self.report_due:
            self.report_due = now + self.report_interval
            self.report_interval = min(REPORT_INTERVAL, 2 * self.report_interval)
            self.report(gpu_percent(self.device))


def gpu_percent(device: "torch.device") -> float | None:
    """Return the recent share of time in which a GPU computed, 0 to 100; None if not known."""
    if device.type != "cuda":
        return None
    import torch

    try:
        return float(torch.cuda.utilization(device))
    except Exception:  # no nvidia-ml-py, a slice of a GPU, no right to ask: each raises its own
        return None
