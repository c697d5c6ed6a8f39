"""The pairs that the page shows, as columns for JSON, and their loss curves."""

import base64
import functools
import json
import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.output import records
from pipeline.data.storage import files, uris
from pipeline.report.facts import clip, key_of, title_of, without_credentials
from pipeline.settings import ROW_OVERRIDES

POINTS = 80
"""Points of a loss curve in the page."""

COLUMNS = [
    *("pair_id", "status", "error_class", "error_message", "warnings", "file_name", "content_uri"),
    *("style_uri", "label", "split", "width", "height", "total_loss", "content_loss"),
    *("style_loss", "loss_history", "evaluations", "stop_reason", *records.SECONDS),
    *("settings", "finished_at", "manifest_row"),
]

Floats = npt.NDArray[np.float64]


class Names:
    """Strings that occur again and again, each written once; their numbers stand for them."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, name: str | None) -> int:
        """The name's number; -1 for None."""
        return -1 if name is None else self.numbers.setdefault(name, len(self.numbers))

    def listed(self) -> list[str]:
        """In the order of their numbers."""
        return list(self.numbers)


class Pairs:
    """The chosen records, in columns.

    ``curves`` are of the ok ones, as shares of the first loss at ``places``: what is drawn of them,
    since there are thousands of pairs of thousands of evaluations.

    Args:
        job_settings: of ``job.json``; a pair's own settings that differ are kept.
        longest: evaluations of the pair that has most.
    """

    def __init__(self, job_settings: Mapping[str, Any], longest: int) -> None:
        self.job_settings = job_settings
        self.places = spots(max(1, longest))
        self.keys: list[int] = []
        self.rows: list[dict[str, Any]] = []
        self.contents, self.styles = Names(), Names()
        self.labels, self.splits = Names(), Names()
        self.errors, self.stops = Names(), Names()
        self.curves: list[npt.NDArray[np.float32]] = []
        self._own_settings = functools.lru_cache(4096)(self._read_own_settings)

    def add(self, record: Mapping[str, Any], losses: pa.ListScalar) -> None:
        """One record with the columns of ``COLUMNS``, its ``loss_history`` apart."""
        ok = record["status"] == "ok"
        history = _history(losses) if ok else np.empty(0)
        given = [record["content_uri"], *(record["style_uri"] or [])]
        content, *styles = (uris.redact(uri) if uri else None for uri in given)
        if not ok:  # of an ok pair they are read
            content, *styles = map(_clip, (content, *styles))
        message = record["error_message"]
        row = {
            "id": title_of(record),
            "ok": int(ok),
            "error": self.errors.add(None if ok else record["error_class"] or "unexpected"),
            "message": without_credentials(message) if message else None,
            "warnings": [without_credentials(line) for line in record["warnings"] or ()],
            "file": record["file_name"] if ok else None,
            "content": self.contents.add(content),
            "styles": [self.styles.add(uri) for uri in styles if uri],
            "label": self.labels.add(_clip(record["label"])),
            "split": self.splits.add(_clip(record["split"])),
            "size": [record["width"], record["height"]] if ok else None,
            "loss": _short(record["total_loss"]),
            "contentLoss": _short(record["content_loss"]),
            "styleLoss": _short(record["style_loss"]),
            "evaluations": record["evaluations"],
            "stop": self.stops.add(record["stop_reason"]),
            "seconds": [_short(record[name]) for name in records.SECONDS],
            "finished": int(record["finished_at"].timestamp()) if record["finished_at"] else None,
            "own": self._own_settings(record["settings"] or "{}"),
            **_packed(history),
        }
        if len(history):
            # A pair that stopped early keeps its last loss: all count at every evaluation.
            drawn = history[np.minimum(self.places, len(history) - 1)]
            self.curves.append((drawn / history[0]).astype(np.float32))
        self.keys.append(key_of(record["pair_id"]))
        self.rows.append(row)

    def _read_own_settings(self, text: str) -> dict[str, Any] | None:
        values = json.loads(text)
        own = {
            name: values[name]
            for name in ROW_OVERRIDES
            if name in values and values[name] != self.job_settings.get(name)
        }
        return own or None

    def columns(self) -> dict[str, Any]:
        """For the page: a list for each field, and the names that the numbers stand for."""
        names = self.rows[0] if self.rows else ()
        fields = {name: [row[name] for row in self.rows] for name in names}
        return {
            "count": len(self.rows),
            "columns": fields,
            "contents": _split_names(self.contents.listed()),
            "styles": _split_names(self.styles.listed()),
            "labels": self.labels.listed(),
            "splits": self.splits.listed(),
            "errors": self.errors.listed(),
            "stops": self.stops.listed(),
        }


def read_pairs(
    output: str,
    options: files.StorageOptions,
    chosen: set[int],
    job_settings: Mapping[str, Any],
    longest: int,
) -> Pairs:
    """The records whose keys are ``chosen``; see ``Pairs``.

    Raises:
        RowError, OSError, pa.ArrowException: records cannot be read.
    """
    pairs = Pairs(job_settings, longest)
    for batch in records.batches(output, options, COLUMNS):
        names = batch["pair_id"].to_pylist()
        some = batch.filter(pa.array([key_of(name) in chosen for name in names], pa.bool_()))
        for start in range(0, len(some), records.ROWS_AT_ONCE):
            part = some.slice(start, records.ROWS_AT_ONCE)
            # As Python's floats losses would take eight times the room.
            rows = part.drop_columns(["loss_history"]).to_pylist()
            for record, losses in zip(rows, part["loss_history"], strict=True):
                pairs.add(record, losses)
    return pairs


def spots(count: int) -> npt.NDArray[np.int64]:
    """Which of ``count`` evaluations are drawn: at most ``POINTS``, close at the start."""
    if count <= POINTS:
        return np.arange(count)
    steps = np.linspace(0, 1, POINTS) ** 2
    return np.floor(steps * (count - 1) + 0.5).astype(np.int64)


def aggregate(pairs: Pairs) -> dict[str, Any] | None:
    """Median of the pairs' curves, and the band of their middle 80%; None if there are none."""
    if not pairs.curves:
        return None
    low, median, high = np.quantile(np.array(pairs.curves), [0.1, 0.5, 0.9], axis=0)
    lines = {"low": low, "median": median, "high": high}
    shown: dict[str, Any] = {
        name: [_short(value) for value in line.tolist()] for name, line in lines.items()
    }
    return {"evaluations": (pairs.places + 1).tolist(), "pairs": len(pairs.curves), **shown}


def _history(losses: pa.ListScalar) -> Floats:
    """The loss after each evaluation; empty where it cannot be drawn on a logarithmic scale."""
    if not losses.is_valid:
        return np.empty(0)
    values: Floats = losses.values.to_numpy(zero_copy_only=False).astype(np.float64)
    return values if len(values) and np.isfinite(values).all() and values.min() > 0 else values[:0]


def _packed(history: Floats) -> dict[str, Any]:
    """A curve in a hundred letters: its logarithms in 255 steps between the least and the most."""
    if not len(history):
        return {"curve": None, "range": None}
    logs = np.log10(history)
    low, high = float(logs.min()), float(logs.max())
    steps = (logs[spots(len(logs))] - low) / (high - low or 1) * 255
    text = base64.b64encode(np.round(steps).astype(np.uint8).tobytes()).decode()
    return {"curve": text, "range": [round(low, 4), round(high, 4)]}


def _clip(text: str | None) -> str | None:
    return None if text is None else clip(text)


def _short(value: float | None) -> float | None:
    """Four digits: JSON of millions of numbers should not be longer than it need be."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")


def _split_names(uris: list[str]) -> dict[str, Any]:
    """URIs as the folder they have in common and the rest."""
    folders = [f"{posixpath.dirname(uri)}/" if "/" in uri else "" for uri in uris]
    shared = posixpath.commonprefix(folders)
    shared = shared[: shared.rfind("/") + 1]
    return {"folder": shared, "names": [uri[len(shared) :] for uri in uris]}
