"""What the page says beside its pairs: counts, errors, times, weights, settings, versions."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from pipeline.data.output import records
from pipeline.data.storage import uris
from pipeline.report.facts import Facts, throughput
from pipeline.settings import JobSettings, StyleSettings

WEIGHTS = {
    "compact": "a small network trained in place of VGG-19",
    "random": "an untrained VGG-19",
}


def describe(
    output: str, job: Mapping[str, Any], summary: Mapping[str, Any] | None, facts: Facts
) -> dict[str, Any]:
    """Everything on the page but pairs and pictures."""
    shown = uris.redact(output)
    return {
        "output": {"uri": shown, "name": shown.rstrip("/").rpartition("/")[2] or shown},
        "madeAt": int(datetime.datetime.now(datetime.timezone.utc).timestamp()),
        "counts": {
            "rows": job.get("rows"),
            "ok": facts.status["ok"],
            "error": facts.status["error"],
        },
        "lastRun": (summary or {}).get("last_run"),
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


def weights_note(name: str) -> str | None:
    """What must be said of weights that are not ImageNet's; None for those that are."""
    if name == "imagenet":
        return None
    return WEIGHTS.get(name, "from a file; its name says nothing of what it was trained on")


def _settings(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every setting as text, and its default where it has another value."""
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
