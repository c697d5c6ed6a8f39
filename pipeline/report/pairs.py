"""The pairs that the page lists, as columns for JSON."""

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
from pipeline.report import curves
from pipeline.report.curves import short
from pipeline.report.facts import clip, key_of, title_of, without_credentials
from pipeline.settings import ROW_OVERRIDES

COLUMNS = [
    *("pair_id", "status", "error_class", "error_message", "warnings", "file_name", "content_uri"),
    *("style_uri", "label", "split", "width", "height", "total_loss", "content_loss"),
    *("style_loss", "loss_history", "evaluations", "stop_reason", *records.SECONDS),
    *("settings", "finished_at", "manifest_row"),
]


class Names:
    """Strings that many pairs share: each is written once, and a number stands for it."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def add(self, name: str | None) -> int:
        """Return the name's number; -1 for None."""
        return -1 if name is None else self.numbers.setdefault(name, len(self.numbers))

    def listed(self) -> list[str]:
        """Return the names in the order of their numbers."""
        return list(self.numbers)


class Pairs:
    """The chosen records, in columns.

    ``curves`` holds the ok pairs' losses at ``points``, as shares of the first loss. The full
    histories are not kept: there can be thousands of pairs with thousands of evaluations each.

    Args:
        job_settings: The settings in ``job.json``. A pair's own settings that differ are kept.
        longest: Evaluations of the pair that has the most.
    """

    def __init__(self, job_settings: Mapping[str, Any], longest: int) -> None:
        self.job_settings = job_settings
        self.points = curves.points_of(max(1, longest))
        self.keys: list[int] = []
        self.rows: list[dict[str, Any]] = []
        self.contents, self.styles = Names(), Names()
        self.labels, self.splits = Names(), Names()
        self.errors, self.stops = Names(), Names()
        self.curves: list[npt.NDArray[np.float32]] = []
        self._own_settings = functools.lru_cache(4096)(self._read_own_settings)

    def add(self, record: Mapping[str, Any], losses: pa.ListScalar) -> None:
        """Add a record with the columns in ``COLUMNS``; its ``loss_history`` comes separately."""
        ok = record["status"] == "ok"
        history = curves.read_history(losses) if ok else np.empty(0)
        given = [record["content_uri"], *(record["style_uri"] or [])]
        content, *styles = (uris.redact(uri) if uri else None for uri in given)
        if not ok:  # an ok pair's URIs are needed whole, to read its pictures
            content, *styles = map(_clip, (content, *styles))
        message, file = record["error_message"], record["file_name"] or ""
        row = {
            "id": title_of(record),
            "ok": int(ok),
            "error": self.errors.add(None if ok else record["error_class"] or "unexpected"),
            "message": without_credentials(message) if message else None,
            "warnings": [without_credentials(line) for line in record["warnings"] or ()],
            "file": file if ok and records.is_image_name(file) else None,
            "content": self.contents.add(content),
            "styles": [self.styles.add(uri) for uri in styles if uri],
            "label": self.labels.add(_clip(record["label"])),
            "split": self.splits.add(_clip(record["split"])),
            "size": [record["width"], record["height"]] if ok else None,
            "loss": short(record["total_loss"]),
            "contentLoss": short(record["content_loss"]),
            "styleLoss": short(record["style_loss"]),
            "evaluations": record["evaluations"],
            "stop": self.stops.add(record["stop_reason"]),
            "seconds": [short(record[name]) for name in records.SECONDS],
            "finished": int(record["finished_at"].timestamp()) if record["finished_at"] else None,
            "own": self._own_settings(record["settings"] or "{}"),
            **curves.packed(history),
        }
        if len(history):
            self.curves.append(curves.drawn_shares(history, self.points))
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
        """Return the data for the page: a list for each field, and the shared names."""
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
    """Read the records whose keys are ``chosen``; for the arguments see ``Pairs``.

    Raises:
        RowError, OSError, pa.ArrowException: The records cannot be read.
    """
    pairs = Pairs(job_settings, longest)
    for batch in records.batches(output, options, COLUMNS):
        names = batch["pair_id"].to_pylist()
        some = batch.filter(pa.array([key_of(name) in chosen for name in names], pa.bool_()))
        for start in range(0, len(some), records.ROWS_AT_ONCE):
            part = some.slice(start, records.ROWS_AT_ONCE)
            # As Python floats the losses would take eight times the memory.
            rows = part.drop_columns(["loss_history"]).to_pylist()
            for record, losses in zip(rows, part["loss_history"], strict=True):
                pairs.add(record, losses)
    return pairs


def _clip(text: str | None) -> str | None:
    return None if text is None else clip(text)


def _split_names(uris: list[str]) -> dict[str, Any]:
    """Split URIs into the folder they share and the rest of each."""
    folders = [f"{posixpath.dirname(uri)}/" if "/" in uri else "" for uri in uris]
    shared = posixpath.commonprefix(folders)
    shared = shared[: shared.rfind("/") + 1]
    return {"folder": shared, "names": [uri[len(shared) :] for uri in uris]}
