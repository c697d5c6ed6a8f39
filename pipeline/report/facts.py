"""What the page says about all records: counts, errors, times; and which of them it shows."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.output import records
from pipeline.data.redaction import redact_text
from pipeline.data.storage import files

MOST_PAIRS = 20_000
"""Pairs in the page: some 8 MB. Of more it shows a sample; the counts are over all."""

MOST_ERRORS = 5_000
"""Errors among them: all of them, if there are no more."""

EXAMPLES = 5
"""Messages of each class of errors."""

EXTREMES = 12
"""Pairs of the lowest loss, and of the highest, that are always among the sample."""

MOST_LETTERS = 400
"""Of an id, a label or a message."""

MOST_BARS = 60
"""Bars of the throughput's chart, about."""

COLUMNS = [
    *("pair_id", "status", "error_class", "error_message", "total_loss", "evaluations"),
    *(
        "stop_reason",
        *records.SECONDS,
        "batch_size",
        "weights",
        "weights_digest",
        "versions",
        "device",
    ),
    "finished_at",
    "manifest_row",
]


@dataclass
class Facts:
    """Sums over all records. Arrays are in the records' order."""

    status: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    stops: Counter[str] = field(default_factory=Counter)
    weights: Counter[tuple[str, str]] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(records.SECONDS, 0.0))
    longest_batch: float = 0.0  # seconds
    longest: int = 0  # evaluations of an ok pair
    keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    ok: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    losses: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))
    finished: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def pairs(self) -> int:
        """How many records there are."""
        return self.status.total()


def key_of(pair_id: str) -> int:
    """8 bytes that order pairs as by lot, the same in every report."""
    return int.from_bytes(hashlib.blake2b(pair_id.encode(), digest_size=8).digest(), "big")


def clip(text: str) -> str:
    """The first ``MOST_LETTERS`` of what a refused row may hold any number of."""
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def title_of(record: Mapping[str, Any]) -> str:
    """A pair's name in the page: its id; of one that nobody could see or click, its row."""
    pair_id: str = record["pair_id"]
    if pair_id.strip():
        return clip(pair_id)
    return f"(no pair_id, manifest row {record['manifest_row']})"


def without_credentials(text: str) -> str:
    """A message, clipped, with web addresses cut as in records: a signed one is a credential."""
    return clip(redact_text(text))


def gather(output: str, options: files.StorageOptions) -> Facts:
    """One pass over all records; some 30 bytes for each stay in memory.

    Raises:
        RowError, OSError, pa.ArrowException: records cannot be read.
    """
    facts = Facts()
    numbers = np.fromiter(
        _count(facts, records.iterate(output, options, COLUMNS)),
        np.dtype([("key", "u8"), ("ok", "?"), ("loss", "f8"), ("finished", "i8")]),
    )
    facts.keys, facts.ok = numbers["key"], numbers["ok"]
    facts.losses, facts.finished = numbers["loss"], numbers["finished"]
    return facts


def _count(facts: Facts, rows: Iterator[dict[str, Any]]) -> Iterator[tuple[int, bool, float, int]]:
    """Add each row up, and give what is kept of it: key, ok, loss, seconds since 1970."""
    for row in rows:
        ok = row["status"] == "ok"
        facts.status["ok" if ok else "error"] += 1
        facts.weights[row["weights"] or "", row["weights_digest"] or ""] += 1
        facts.versions[row["versions"] or "{}"] += 1
        if ok:
            facts.devices[row["device"] or "unknown"] += 1
            facts.stops[row["stop_reason"] or "unknown"] += 1
            for name in records.SECONDS:
                facts.seconds[name] += row[name] or 0.0
            facts.longest = max(facts.longest, row["evaluations"] or 0)
            batch = (row["optimize_seconds"] or 0.0) * (row["batch_size"] or 1)
            facts.longest_batch = max(facts.longest_batch, batch)
        else:
            _count_error(facts, row)
        loss = row["total_loss"] if ok and row["total_loss"] is not None else np.nan
        finished = row["finished_at"]
        yield key_of(row["pair_id"]), ok, loss, int(finished.timestamp()) if finished else 0


def _count_error(facts: Facts, row: dict[str, Any]) -> None:
    name = row["error_class"] or "unexpected"
    facts.errors[name] += 1
    named = facts.examples.setdefault(name, [])
    if len(named) < EXAMPLES:
        message = without_credentials(row["error_message"] or "")
        named.append({"id": title_of(row), "message": message})


def choose_pairs(facts: Facts) -> set[int]:
    """Keys of the pairs that the page shows: all, or some of the ok ones and (most) errors."""
    failed, done = facts.keys[~facts.ok], facts.keys[facts.ok]
    if len(facts.keys) <= MOST_PAIRS:
        return set(facts.keys.tolist())
    errors = heapq.nsmallest(MOST_ERRORS, failed.tolist())
    extremes = extreme_keys(facts)
    sample = heapq.nsmallest(MOST_PAIRS - len(errors) - len(extremes), done.tolist())
    return {*errors, *extremes, *sample}


def extreme_keys(facts: Facts) -> list[int]:
    """Keys of the pairs with the lowest and the highest losses."""
    order = np.argsort(facts.losses, kind="stable")  # those without a loss come last
    order = order[: np.isfinite(facts.losses).sum()]
    ends = np.concatenate([order[:EXTREMES], order[EXTREMES:][-EXTREMES:]])
    return [int(key) for key in facts.keys[ends]]


NICE_SECONDS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 604_800),
)


def throughput(facts: Facts) -> dict[str, Any]:
    """Pairs finished in each stretch of time, ok and failed, run by run.

    A run ends where nothing was finished for ten minutes and for as long as fifty batches take:
    work comes to its end in blocks of several batches. Returns the stretches' length in seconds,
    and for each run the start of the first (seconds since 1970) and the counts.
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
    bars = min(MOST_BARS, max(8, len(times) // 4))
    width = next((nice for nice in NICE_SECONDS if nice * bars >= span), NICE_SECONDS[-1])
    runs = []
    for part, good in zip(np.split(times, ends), np.split(ok, ends), strict=True):
        start = int(part[0]) // width * width
        place = (part - start) // width
        length = int(place[-1]) + 1
        counts = [np.bincount(place[good == wanted], minlength=length) for wanted in (True, False)]
        runs.append({"start": start, "ok": counts[0].tolist(), "error": counts[1].tolist()})
    return {"width": width, "runs": runs}
