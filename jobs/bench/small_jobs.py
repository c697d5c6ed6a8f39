"""Real jobs over a few pictures that code has painted. Several measurements run them."""

import os
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from jobs._judge import to_image
from jobs.bench.inputs import pictures, weights_file
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings, StyleSettings, replace

EVENTS_SETTING = "RAY_task_events_max_num_task_in_gcs"
EVENTS = 1_000_000
"""Calls of tasks and actors that Ray remembers for ``actor_times``; a block has some ten."""

CONTENTS, STYLES = 16, 7
"""Files of content images and of style images in a job."""


@dataclass(frozen=True)
class SmallJob:
    """A job over ``rows`` pairs of the same few files, at one scale.

    Attributes:
        rows: rows of the manifest.
        image_size: edge of all pictures in pixels.
        iterations: evaluations of each pair.
        weights: as for ``inputs.ready``.
        form: of the files that are read and written, ``png`` or ``jpg``.
    """

    rows: int
    image_size: int
    iterations: int
    weights: str = "compact"
    form: str = "png"


def run(folder: str, small: SmallJob, **settings: Any) -> dict[str, Any]:
    """Run a job in a folder, and return its summary.

    Args:
        folder: gets the pictures, the manifest and, in ``out``, the output.
        small: the job.
        settings: more of ``JobSettings``.
    """
    form, size = small.form, small.image_size
    paint(folder, size, form)
    table = {
        "pair_id": [f"p{n:07d}" for n in range(small.rows)],
        "content_uri": [f"c{n % CONTENTS}.{form}" for n in range(small.rows)],
        "style_uri": [f"s{n % STYLES}.{form}" for n in range(small.rows)],
    }
    pq.write_table(pa.table(table), f"{folder}/m.parquet")
    style = StyleSettings(
        weights=weights_file(small.weights, folder),
        image_size=size,
        iterations=small.iterations,
        scales=1,
        tolerance=0,
    )
    job = JobSettings(manifest=f"{folder}/m.parquet", output=f"{folder}/out")
    return run_job(style, replace(job, image_format=form, **settings))


def paint(folder: str, edge: int, form: str) -> None:
    """Write the pictures of a job: ``c0``, ``s0`` and so on, with ``form`` as their ending."""
    names = [*(f"c{n}" for n in range(CONTENTS)), *(f"s{n}" for n in range(STYLES))]
    for name, picture in zip(names, pictures(len(names), (edge, edge)), strict=True):
        to_image(picture).save(f"{folder}/{name}.{form}", quality=90)


def keep_events() -> None:
    """Let a Ray that this process starts remember the calls of long jobs, too; see ``EVENTS``."""
    os.environ[EVENTS_SETTING] = str(EVENTS)


def recorded(folder: str, column: str) -> pa.ChunkedArray:
    """Return a column of the records of a job that ran in ``folder``."""
    return pq.read_table(f"{folder}/out/records", columns=[column])[column]


def actor_times() -> list[tuple[float, float]]:
    """Return when each style actor's first block began and its last ended, by Ray's timeline.

    Seconds as ``time.time`` counts them. Start-up and the wait for another actor's last block are
    left out.
    """
    spans: dict[str, tuple[float, float]] = {}
    for event in ray.timeline():
        if "Actor)" in event["cat"] and event["cat"].endswith(".submit"):
            start, end = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
            first, last = spans.get(event["tid"], (start, end))
            spans[event["tid"]] = min(first, start), max(last, end)
    return list(spans.values())
