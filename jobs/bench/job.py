"""A whole job, measured from end to end; and a model of larger ones, checked by simulated devices.

Call the measurements through ``alone``: each one's Ray and memory are to be its own.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pyarrow.compute as pc

from jobs.bench import model, processes, small_jobs
from jobs.bench.alone import Numbers
from jobs.bench.model import Machines, Row
from jobs.bench.simulated import EVALUATIONS, SimulatedActor
from jobs.bench.small_jobs import SmallJob
from pipeline.engine import flow
from pipeline.engine.runtime.cluster import start_ray, stop_ray
from pipeline.engine.runtime.nodes import node_resources

REQUESTS = 3.0
"""Requests to storage for a row: read the content image, ask for the style's version, write the
image. Style images, records and the lease are shared by the rows of a block."""

CLUSTERS = ((1, 8), (1, 16), (8, 64), (8, 128), (64, 512), (64, 1024))
"""GPUs and cores of the clusters that the model tells of."""

BANDWIDTH = 1.25e9
"""Bytes a second between storage and each eight GPUs' node or nodes: 10 Gbit/s."""

S3_REQUESTS = 3500.0
"""Writes a second that S3 promises for a prefix of names."""

FREE_ROWS = 4_096
"""Most rows of the job whose device takes no time, which tells what a row takes."""

MANY_ACTORS, SMALL_BLOCKS = 32, 64
"""With so many actors simulated jobs have blocks of at most so many pairs: one machine's object
store holds the blocks of all."""

PRICE = 1.0
"""Dollars of a GPU hour. Multiply the costs by your price; docs/clusters.md has examples."""


def whole_job(
    pairs: int,
    image_size: int,
    evaluations: int,
    weights: str = "compact",
    actors: int | None = None,
) -> Numbers:
    """Measure a real job on what this machine has, JPEG in and JPEG out.

    Args:
        pairs: rows of the manifest.
        image_size: edge of all pictures in pixels.
        evaluations: of each pair, at one scale.
        weights: as for ``inputs.ready``.
        actors: style actors; as a job chooses if None.
    """
    start_ray(verbose=False)
    try:
        return _measured(SmallJob(pairs, image_size, evaluations, weights, "jpg"), actors=actors)
    finally:
        stop_ray()


def simulated_jobs(
    rows: int, image_size: int, runs: Sequence[tuple[int, float]], device_seconds: float
) -> Numbers:
    """Compare the model with jobs whose devices sleep, and apply it to larger clusters.

    What a row takes is measured by a first job, of one actor whose device takes no time and at most
    ``FREE_ROWS`` rows. Many processes on few cores make a row dearer, so each comparison also gives
    the CPU seconds of a row in that very job, and what the model says with them.

    Args:
        rows: rows of each job's manifest.
        image_size: edge of all pictures in pixels.
        runs: style actors, and seconds of a device for a picture, of the jobs to compare.
        device_seconds: of a GPU for a picture, for the larger clusters.
    """
    small = SmallJob(rows, image_size, EVALUATIONS, form="jpg")
    small_jobs.keep_events()
    start_ray(verbose=False)
    try:
        cores = sum(node.get("CPU", 0.0) for node in node_resources())
        row = _row(_simulated(replace(small, rows=min(rows, FREE_ROWS)), 1, 0.0))
        found: Numbers = {f"a row: {name}": value for name, value in vars(row).items()}
        for actors, seconds in runs:
            machines = Machines(actors, seconds, cores, one_machine=True)
            made = _simulated(small, actors, seconds)
            name = f"{actors} actors of {1 / seconds:g} a second"
            part, rate = model.slowest(row, machines)
            found[f"{name}: made, by the model ({part}), busy"] = [
                made["pictures_a_second"],
                rate,
                made["device_busy"],
            ]
            part, rate = model.slowest(_row(made), machines)
            found[f"{name}: ok, seconds, CPU seconds a row, the model with them ({part})"] = [
                made["ok"],
                made["seconds"],
                made["cpu_seconds_a_row"],
                rate,
            ]
    finally:
        stop_ray()
    return found | _larger(row, device_seconds)


def _row(measured: Numbers) -> Row:
    """Return what a row took in a job that was measured."""
    return Row(
        nodes=measured["cpu_seconds_a_row"] - measured["driver_cpu_seconds_a_row"],
        driver=measured["driver_cpu_seconds_a_row"],
        bytes=measured["bytes_read_a_row"] + measured["bytes_written_a_row"],
        requests=REQUESTS,
    )


def _larger(row: Row, device_seconds: float) -> Numbers:
    """Return what the model says of ``CLUSTERS``."""
    found: Numbers = {}
    for gpus, cores in CLUSTERS:
        bandwidth = BANDWIDTH * max(1, gpus // 8)
        machines = Machines(gpus, device_seconds, cores, bandwidth, S3_REQUESTS)
        part, rate = model.slowest(row, machines)
        cost = model.dollars_per_million(rate, gpus, PRICE)
        name = f"{gpus} GPUs, {cores} cores ({part}): a second, hours and $ for a million"
        found[name] = [rate, 1e6 / rate / 3600, cost]
    return found


def _simulated(small: SmallJob, actors: int, seconds: float) -> Numbers:
    # As small as a job's own choice, which gives each actor some blocks.
    small_block = min(SMALL_BLOCKS, math.ceil(small.rows / (4 * actors)))
    block = small_block if actors >= MANY_ACTORS else None
    actor = type("PacedActor", (SimulatedActor,), {"device_seconds": seconds})
    with mock.patch.object(flow, "StyleActor", actor):
        # The sleeping actors use none of the CPUs that the other stages have.
        return _measured(
            small, actors=actors, batch_size=64, cpus_per_actor=0, rows_per_block=block
        )


def _measured(small: SmallJob, **settings: int | None) -> Numbers:
    """Run a job, and measure it from the style actors' first block to their last."""
    earlier = len(small_jobs.actor_times())
    with tempfile.TemporaryDirectory() as folder, processes.watched() as usage:
        summary = small_jobs.run(folder, small, **settings)
        usage.look()
        spans = sorted(small_jobs.actor_times())[earlier:]
        computing = pc.sum(small_jobs.recorded(folder, "optimize_seconds")).as_py()
        written = _bytes(folder, "out/**/*")
        files = _bytes(folder, "c*.jpg") / small_jobs.CONTENTS
    present = sum(last - first for first, last in spans)
    start, end = min(spans)[0], max(last for _, last in spans)
    used = usage.between(start, end)
    starting = sum(used.get(kind, 0.0) for kind in processes.STARTING)
    rows = small.rows
    return {
        "ok": summary["ok"],
        "actors": len(spans),
        "pictures_a_second": rows / present * len(spans),
        "device_busy": computing / present,
        "cpu_seconds_a_row": (sum(used.values()) - starting) / rows,
        "driver_cpu_seconds_a_row": used.get("driver", 0.0) / rows,
        "bytes_read_a_row": files,
        "bytes_written_a_row": written / rows,
        "seconds": summary["last_run"]["seconds"],
    }


def _bytes(folder: str, pattern: str) -> int:
    """Return the bytes of the files of a folder that match."""
    return sum(path.stat().st_size for path in Path(folder).glob(pattern) if path.is_file())
