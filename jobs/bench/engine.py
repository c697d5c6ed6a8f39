"""What the pipeline around the optimisation costs: real jobs on Ray, and the style cache.

Call the measurements through ``alone``: each one's Ray and memory are to be its own.
"""

import os
import random
import tempfile
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from jobs.bench import parts, processes, small_jobs
from jobs.bench.alone import Numbers, peak_bytes
from jobs.bench.bookkeeping import write_plan
from jobs.bench.instant import InstantActor
from jobs.bench.simulated import EVALUATIONS
from jobs.bench.small_jobs import SmallJob
from pipeline.engine import flow
from pipeline.engine.runtime.cluster import start_ray, stop_ray
from pipeline.settings import StyleSettings
from pipeline.style.network.weights import load_network
from pipeline.style.recipe import TargetCache

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
        weights: as for ``inputs.ready``.
    """
    start_ray(verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        small = SmallJob(pairs, image_size, iterations, weights)
        summary = small_jobs.run(folder, small)
        computing = pc.sum(small_jobs.recorded(folder, "optimize_seconds")).as_py()
    spans = small_jobs.actor_times()
    stop_ray()
    present = sum(last - first for first, last in spans)
    return {
        "actors": len(spans),
        "computing_seconds": computing,
        "actor_seconds": present,
        "efficiency": computing / present,
        "pairs_per_second": pairs / present * len(spans),
        "seconds": summary["last_run"]["seconds"],
    }


def engine_cost(
    rows: int = 5_000, image_size: int = 256, batch_size: int = 64, rows_per_block: int = 256
) -> Numbers:
    """Measure what a row costs besides its optimisation: a real job whose device costs nothing.

    Pictures come as JPEG files of the wanted size and leave as JPEG files. ``cpu_ms_per_row`` is
    the CPU time of all processes: of those that load, stylize and store without their first block,
    of the others between the first and the last block that is stored. So the start of processes
    does not count. Needs Linux.

    Args:
        rows: rows of the manifest.
        image_size: edge of all pictures in pixels.
        batch_size: pairs that an actor optimises together.
        rows_per_block: what a long job with this ``batch_size`` would choose.
    """
    with tempfile.TemporaryDirectory() as folder, processes.watched() as usage:
        noted = f"{folder}/noted"
        os.mkdir(noted)
        actor = type("NotedActor", (InstantActor,), {"folder": noted})
        with (
            mock.patch.object(flow, "StyleActor", actor),
            mock.patch.object(flow, "load", parts.named(parts.load, noted)),
            mock.patch.object(flow, "store", parts.named(parts.store, noted)),
        ):
            small = SmallJob(rows, image_size, EVALUATIONS, form="jpg")
            settings = {"batch_size": batch_size, "rows_per_block": rows_per_block}
            summary = small_jobs.run(folder, small, **settings)
        driver_mib = peak_bytes() / 2**20
        usage.look()
        notes = parts.notes(noted)
    stages = parts.a_row(notes)
    if not {"load", "style actor", "store"} <= stages.keys():
        raise ValueError(f"{rows} rows: a process of each stage must have two blocks; give more")
    stored = [note for note in notes if note["stage"] == "store"]
    start, end = stored[0]["ended"], stored[-1]["ended"]
    more = sum(note["rows"] for note in stored[1:])
    beside = {
        kind: 1000 * seconds / more
        for kind, seconds in usage.between(start, end).items()
        if kind not in (*stages, *processes.STARTING)
    }
    cpu = {kind: value for kind, value in stages.items() if ":" not in kind} | beside
    return {
        "ok": summary["ok"],
        "driver_mib": driver_mib,
        "seconds": summary["last_run"]["seconds"],
        "wall_ms_per_row": 1000 * (end - start) / more,
        "cpu_ms_per_row": sum(cpu.values()),
        **{f"cpu ms a row, {kind}": value for kind, value in cpu.items()},
        **{f"  {part}": value for part, value in stages.items() if ":" in part},
    }


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
