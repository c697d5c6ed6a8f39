"""Everything on the page except the pairs: counts, errors, times, weights, settings, versions."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from pipeline.data.output import records
from pipeline.data.storage import uris
from pipeline.report.facts import Facts, clip
from pipeline.report.speed import throughput
from pipeline.settings import JobSettings, StyleSettings

WEIGHTS = {
    "compact": "a small network fitted to VGG-16",
    "random": "an untrained VGG-19",
}
"""What the page says about weights other than ImageNet's, by name."""


def describe(
    output: str,
    title: str | None,
    job: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    facts: Facts,
) -> dict[str, Any]:
    """Return everything on the page except pairs and pictures.

    Args:
        output: URI of the output.
        title: Heading of the page; if None, the job's.
        job: Content of ``job.json``.
        summary: Content of ``summary.json``; None while no run has finished.
        facts: Sums over all records.
    """
    shown = uris.redact(output)
    title = title or job.get("title")
    return {
        "title": clip(str(title)) if title else None,
        "output": {"uri": shown, "name": shown.rstrip("/").rpartition("/")[2] or shown},
        "madeAt": int(datetime.datetime.now(datetime.timezone.utc).timestamp()),
        "counts": {
            "rows": _rows(job),
            "ok": facts.status["ok"],
            "originals": facts.originals,
            "error": facts.status["error"],
        },
        "lastRun": _last_run(summary or {}),
        "errors": [
            {"name": name, "count": count, "examples": facts.examples[name]}
            for name, count in facts.errors.most_common()
        ],
        "stops": facts.stops.most_common(),
        "seconds": {name.removesuffix("_seconds"): facts.seconds[name] for name in records.SECONDS},
        "throughput": throughput(facts),
        "weights": [
            {"name": name, "digest": digest, "count": count, "note": weights_note(name)}
            for (name, digest), count in facts.weights.most_common()
        ],
        "settings": _settings(job.get("settings") or {}),
        "versions": [
            {"versions": json.loads(text), "count": count}
            for text, count in facts.versions.most_common()
        ],
        "devices": facts.devices.most_common(),
        "job": {
            name: job.get(name)
            for name in ("fingerprint", "manifest", "manifest_digest", "started_at")
        },
    }


def _rows(job: Mapping[str, Any]) -> int | None:
    """Return the rows of the job's manifest and the pairs of others that it has found recorded."""
    rows, others = job.get("rows"), job.get("recorded_of_others", 0)
    return rows + others if isinstance(rows, int) and isinstance(others, int) else None


def _last_run(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the last run that did any pairs."""
    run = summary.get("last_working_run") or summary.get("last_run")
    return run if run and run["pairs"] else None


def weights_note(name: str) -> str | None:
    """Return a warning about weights that are not ImageNet's; None for ImageNet's."""
    if name == "imagenet":
        return None
    return WEIGHTS.get(name, "from a file, which does not say what it was trained on")


def _settings(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every setting as text, with its default where the value differs."""
    specs = {
        spec.name: spec
        for kind in (JobSettings, StyleSettings)
        for spec in dataclasses.fields(kind)
    }
    rows = []
    for name, value in values.items():
        default = _plain(specs[name].default) if name in specs else value
        changed = default != _plain(value)
        help_text = specs[name].metadata["help"] if name in specs else ""
        rows.append(
            {
                "name": name,
                "value": _text(value),
                "default": _text(default) if changed else None,
                "help": help_text,
            }
        )
    return rows


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
