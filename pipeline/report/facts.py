"""Sums over all records: counts, errors, times, and a few numbers of each pair."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.output import records
from pipeline.data.storage import files
from pipeline.redaction import redact_text

EXAMPLES = 5
"""Messages shown for each class of errors."""

MOST_LETTERS = 400
"""Longest id, label or message on the page, characters."""

COLUMNS = [
    *("pair_id", "status", "error_class", "error_message", "total_loss", "evaluations"),
    "style_uri",
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
    """Sums over all records. The arrays follow the order of the records."""

    originals: int = 0
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
        """The number of records."""
        return self.status.total()


def key_of(name: str) -> int:
    """Return 8 bytes that put names in a random order, the same in every report."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def clip(text: str) -> str:
    """Return the first ``MOST_LETTERS`` characters: a refused row may hold any number."""
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def title_of(record: Mapping[str, Any]) -> str:
    """Return a pair's id as the page shows it; for a blank one, which row it came from."""
    pair_id: str = record["pair_id"]
    if pair_id.strip():
        return clip(pair_id)
    return f"(no pair_id, manifest row {record['manifest_row']})"


def without_credentials(text: str) -> str:
    """Return a message, clipped, with web addresses cut as in records: a signature is a secret."""
    return clip(redact_text(text))


def gather(output: str, options: files.StorageOptions) -> Facts:
    """Read all records once; some 30 bytes of each stay in memory.

    Raises:
        RowError, OSError, pa.ArrowException: The records cannot be read.
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
    """Add up the rows, and yield what is kept of each: key, ok, loss, seconds since 1970."""
    for row in rows:
        ok = row["status"] == "ok"
        facts.status["ok" if ok else "error"] += 1
        facts.weights[row["weights"] or "", row["weights_digest"] or ""] += 1
        facts.versions[row["versions"] or "{}"] += 1
        if ok and row["style_uri"] == []:
            facts.originals += 1  # a copy: nothing was optimised
        elif ok:
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
    examples = facts.examples.setdefault(name, [])
    if len(examples) < EXAMPLES:
        message = without_credentials(row["error_message"] or "")
        examples.append({"id": title_of(row), "message": message})
