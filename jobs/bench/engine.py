"""What the pipeline around the optimisation costs: real jobs on Ray, and the style cache.

Call the measurements through ``alone``: each one's Ray and memory are to be its own.
"""

import random
import tempfile
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import safetensors.torch
import torch

from jobs._judge import to_image
from jobs.bench.alone import Numbers, peak_bytes
from jobs.bench.bookkeeping import write_plan
from jobs.bench.inputs import pictures, ready
from pipeline.engine import flow
from pipeline.engine.job import run_job
from pipeline.engine.runtime.cluster import start_ray, stop_ray
from pipeline.engine.stages.blocks import STYLIZED
from pipeline.settings import JobSettings, StyleSettings
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import TargetCache

CONTENTS, STYLES = 16, 7
"""Files of content images and of style images in a job."""

ROWS_OF_CACHE = 4
"""Rows of a block when the style cache is measured."""


def efficiency(
    pairs: int = 64, image_size: int = 128, iterations: int = 60, weights: str = "compact"
) -> Numbers:
    """Measure the share of time in which the style actors compute, on GPUs if there are any.

    An actor's time runs from the start of its first block to the end of its last, by Ray's own
    timeline: start-up and the wait for another actor's last block do not count. It computes for
    the ``optimize_seconds`` of its records. For the rest it waits for blocks, unpacks and packs.

    Args:
        pairs: rows of the manifest.
        image_size: edge of all images in pixels.
        iterations: evaluations of each pair, at one scale.
        weights: ``compact`` or ``wide``, see ``ready``.
    """
    start_ray(verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        if weights == "wide":
            network, _ = ready(weights, "cpu")
            weights = f"{folder}/wide.safetensors"
            state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
            safetensors.torch.save_file(state, weights)
        summary = _run_job(folder, pairs, image_size, iterations, weights)
        computing = pc.sum(_recorded(folder, "optimize_seconds")).as_py()
    spans: dict[str, tuple[float, float]] = {}
    for event in ray.timeline():
        if "(StyleActor)" in event["cat"] and event["cat"].endswith(".submit"):
            start, end = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
            first, last = spans.get(event["tid"], (start, end))
            spans[event["tid"]] = min(first, start), max(last, end)
    stop_ray()
    present = sum(last - first for first, last in spans.values())
    return {
        "actors": len(spans),
        "computing_seconds": computing,
        "actor_seconds": present,
        "efficiency": computing / present,
        "pairs_per_second": pairs / present * len(spans),
        "seconds": summary["last_run"]["seconds"],
    }


def engine_cost(rows: int = 1_000) -> Numbers:
    """Measure what a row costs besides its optimisation: a real job whose style actor does nothing.

    The job itself plans, loads, stores, and writes records and checkpoint. ``seconds_per_row`` is
    taken between the first and the last record, so that Ray's start and end do not count.

    Args:
        rows: rows of the manifest; all images have 64 pixels a side.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(flow, "StyleActor", _idle_actor()),
    ):
        summary = _run_job(folder, rows, 64, 100, "compact")
        driver_mib = peak_bytes() / 2**20  # before all records are read at once
        finished = _recorded(folder, "finished_at").cast(pa.int64()).to_numpy() / 1000
    within = float(finished.max() - finished.min())
    before = int((finished == finished.min()).sum())
    return {
        "ok": summary["ok"],
        "driver_mib": driver_mib,
        "seconds": summary["last_run"]["seconds"],
        "seconds_per_row": within / max(rows - before, 1),
        "load_seconds_per_row": summary["seconds"]["load"] / rows,
        "store_seconds_per_row": summary["seconds"]["store"] / rows,
    }


def _idle_actor() -> type:
    """Return a class in place of the style actor that returns the content image as the result.

    Ray sends it to its workers by value, as it is no module's.
    """
    layers = [(f"style.conv{block}_1", 1.0) for block in range(1, 6)]
    facts: dict[str, Any] = {
        **dict.fromkeys(("total_loss", "content_loss", "style_loss", "tv_loss"), 1.0),
        **dict.fromkeys(("layer_losses", "content_image_losses", "layer_weights"), layers),
        "alpha": 1.0,
        "loss_history": [1.0 + 1 / (index + 3) for index in range(100)],
        "steps": 99,
        "evaluations": 100,
        "stop_reason": "iterations",
        "optimize_seconds": 0.0,
        "batch_size": 1,
        "device": "none",
        "node": "none",
    }

    class IdleActor:
        def __init__(self, context: Any, board: Any, **_: Any) -> None:
            self.schema = context.schema(*STYLIZED)
            board.add_actor()

        def __call__(self, table: pa.Table) -> pa.Table:
            columns = {
                name: table[name] for name in self.schema.names if name in table.schema.names
            }
            columns["__stylized_image"] = table["__content_image"]
            for name, value in facts.items():
                columns[name] = pa.array([value] * len(table), self.schema.field(name).type)
            return pa.table(columns).select(self.schema.names).cast(self.schema)

    return IdleActor


def _run_job(
    folder: str, rows: int, image_size: int, iterations: int, weights: str
) -> dict[str, Any]:
    """Run a job over small soft pictures, and return its summary."""
    names = [*(f"c{n}" for n in range(CONTENTS)), *(f"s{n}" for n in range(STYLES))]
    small = pictures(len(names), (image_size // 8, image_size // 8))
    for name, picture in zip(names, small, strict=True):
        to_image(picture).resize((image_size, image_size)).save(f"{folder}/{name}.png")
    table = {
        "pair_id": [f"p{n:07d}" for n in range(rows)],
        "content_uri": [f"c{n % CONTENTS}.png" for n in range(rows)],
        "style_uri": [f"s{n % STYLES}.png" for n in range(rows)],
    }
    pq.write_table(pa.table(table), f"{folder}/m.parquet")
    style = StyleSettings(
        weights=weights, image_size=image_size, iterations=iterations, scales=1, tolerance=0
    )
    return run_job(style, JobSettings(manifest=f"{folder}/m.parquet", output=f"{folder}/out"))


def _recorded(folder: str, column: str) -> pa.ChunkedArray:
    return pq.read_table(f"{folder}/out/records", columns=[column])[column]


def cache_hits(pairs: int = 512, styles: int = 64, cache: int = 64, actors: int = 2) -> Numbers:
    """Measure the hit rate of the style-target cache, with the styles shuffled in the manifest.

    The rows come in the plan's order, and blocks of four go to the actors in turn. ``unplanned``
    is the rate in the manifest's own order, ``best`` that of one endless cache for all actors.

    Args:
        pairs: rows of the manifest.
        styles: different style images.
        cache: capacity of an actor's cache.
        actors: actors, each with a cache.
    """
    chosen = [f"s{index % styles}.png" for index in range(pairs)]
    random.Random(0).shuffle(chosen)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        columns = {"content_uri": [f"c{n}.png" for n in range(pairs)], "style_uri": chosen}
        pq.write_table(pa.table(columns), f"{folder}/m.parquet")
        write_plan(f"{folder}/m.parquet", f"{folder}/plan")
        planned = [uris[0] for uris in pq.read_table(f"{folder}/plan")["style_uri"].to_pylist()]
    settings = StyleSettings(weights="compact", image_size=32)
    network = load_network(settings)
    image = torch.rand(3, 32, 32)

    def rate(keys: list[str]) -> float:
        caches = [TargetCache(network, settings, cache) for _ in range(actors)]
        for place, key in enumerate(keys):
            caches[place // ROWS_OF_CACHE % actors].get(key, image, (32, 32))
        return sum(each.hits for each in caches) / pairs

    return {"planned": rate(planned), "unplanned": rate(chosen), "best": 1 - styles / pairs}
