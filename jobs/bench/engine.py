"""What the pipeline around the optimisation costs: the engine's half of ``jobs.benchmark``.

Each function measures one thing in a process of its own, so that its peak memory is its own, and
returns numbers. Seconds are wall time unless they say otherwise. Nothing is asserted.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Numbers = dict[str, Any]


def efficiency(
    pairs: int = 64, image_size: int = 128, iterations: int = 60, weights: str = "compact"
) -> Numbers:
    """The share of time in which the style actors compute, in a real job: on GPUs, else on CPUs.

    An actor's time runs from the start of its first block to the end of its last, by Ray's own
    timeline: start-up and the wait for another actor's last block are left out. It computes for
    the ``optimize_seconds`` of its records; the rest is waiting for blocks, unpacking and packing.

    Args:
        pairs: rows of the manifest; contents of 16 files, styles of 8.
        image_size: px.
        iterations: evaluations of each pair, at one scale.
        weights: ``compact`` or ``wide``, as in the method's measurements.
    """
    return _alone(
        "_efficiency", pairs=pairs, image_size=image_size, iterations=iterations, weights=weights
    )


def engine_cost(
    rows: int = 1_000, sleep: float = 0.0, rows_per_block: int | None = None
) -> Numbers:
    """What a row costs beside its optimisation: a real job whose style actor only sleeps.

    Planning, loading, storing, records and checkpoint are the job's own. ``seconds_per_row`` is
    taken between the first and the last record, so that Ray's start and end are left out.

    Args:
        rows: of the manifest; 16 contents of 64 px, 8 styles.
        sleep: seconds for each row, in the actor.
        rows_per_block: the job's setting of that name.
    """
    return _alone("_engine_cost", rows=rows, sleep=sleep, rows_per_block=rows_per_block)


def planning(rows: int = 1_000_000, columns: str = "few") -> Numbers:
    """Seconds and peak memory of a manifest's plan, without Ray.

    Args:
        columns: ``few``: contents and styles; ``many``: label, split, two overrides (one of them
            different in each row) and an unknown column, too.
    """
    return _alone("_planning", rows=rows, columns=columns)


def closing(rows: int = 1_000_000, files: int = 5_000) -> Numbers:
    """Seconds and peak memory of what is done once over all records: mending an output before a
    run goes on in it, counting what is done, and adding up at the end.

    Args:
        rows: records, in ``files`` equal files.
    """
    return _alone("_closing", rows=rows, files=files)


def cache_hits(pairs: int = 512, styles: int = 64, cache: int = 64, actors: int = 2) -> Numbers:
    """The hit rate of the style-target cache, with the styles shuffled in the manifest.

    The rows come in the plan's order, in blocks of four dealt to the actors in turn. ``unplanned``
    is the rate in the manifest's own order, ``best`` that of one endless cache for all.
    """
    return _alone("_cache_hits", pairs=pairs, styles=styles, cache=cache, actors=actors)


def _alone(function: str, **arguments: Any) -> Numbers:
    """What a function of this module returns in a fresh process, with that one's peak memory."""
    code = (
        "import json, sys; from jobs import _bench_engine as bench; "
        "json.dump(bench._measured(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)"
    )
    command = [sys.executable, "-c", code, function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603
    numbers: Numbers = json.loads(done.stdout)
    return numbers


def _measured(function: str, arguments: Numbers) -> Numbers:
    numbers = globals()[function](**arguments)
    return {**arguments, **numbers, "peak_mib": _peak_mib()}


def _peak_mib() -> float | None:
    """The most memory that this process has held; None where the system has no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


def _efficiency(pairs: int, image_size: int, iterations: int, weights: str) -> Numbers:
    import ray
    import safetensors.torch

    from jobs.bench.style import ready
    from pipeline.engine.runtime.cluster import start_ray, stop_ray

    start_ray(verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        if weights == "wide":
            network, _ = ready(weights, "cpu")
            weights = f"{folder}/wide.safetensors"
            state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
            safetensors.torch.save_file(state, weights)
        summary = _job(folder, pairs, image_size, iterations, weights=weights)
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


def _engine_cost(rows: int, sleep: float, rows_per_block: int | None) -> Numbers:
    from pipeline.engine import flow

    flow.StyleActor = _sleeper(sleep)  # this process is the driver of this job and ends with it
    with tempfile.TemporaryDirectory() as folder:
        summary = _job(folder, rows, 64, 100, rows_per_block)
        driver_mib = _peak_mib()  # before this benchmark reads all records at once
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


def _sleeper(sleep: float) -> Any:
    """Stands where the style actor stands, and hands the content image on as the result."""
    from pipeline.engine.stages import blocks

    layers = {f"style.conv{block}_1": 1.0 for block in range(1, 6)}
    losses = dict.fromkeys(("total_loss", "content_loss", "style_loss", "tv_loss"), 1.0)
    facts = losses | {
        "layer_losses": list(layers.items()),
        "content_image_losses": list(layers.items()),
        "alpha": 1.0,
        "layer_weights": list(layers.items()),
        "loss_history": [1.0 + 1 / (index + 3) for index in range(100)],
        "steps": 99,
        "evaluations": 100,
        "stop_reason": "iterations",
        "optimize_seconds": sleep,
        "batch_size": 1,
        "device": "none",
        "node": "none",
    }

    class Sleeper:
        def __init__(self, context: Any, board: Any, **_: Any) -> None:
            self.schema = context.schema(*blocks.STYLIZED)
            board.add_actor()

        def __call__(self, table: pa.Table) -> pa.Table:
            time.sleep(sleep * len(table))
            added = {"__stylized_image": table["__content_image"]}
            for name, value in facts.items():
                added[name] = pa.array([value] * len(table), self.schema.field(name).type)
            columns = [added[name] if name in added else table[name] for name in self.schema.names]
            return pa.Table.from_arrays(columns, schema=self.schema)

    return Sleeper


def _job(
    folder: str,
    rows: int,
    image_size: int,
    iterations: int,
    rows_per_block: int | None = None,
    weights: str = "compact",
) -> Numbers:
    """Run a job over small pictures. Returns its summary."""
    from PIL import Image

    from pipeline.engine.job import run_job
    from pipeline.settings import JobSettings, StyleSettings

    rng = np.random.default_rng(0)
    for name in [*(f"c{i}" for i in range(16)), *(f"s{i}" for i in range(8))]:
        noise = rng.integers(0, 256, (image_size // 8, image_size // 8, 3), np.uint8)
        soft = Image.fromarray(noise).resize((image_size, image_size))
        soft.save(f"{folder}/{name}.png")
    table = {
        "pair_id": [f"p{i:07d}" for i in range(rows)],
        "content_uri": [f"c{i % 16}.png" for i in range(rows)],
        "style_uri": [f"s{i % 7}.png" for i in range(rows)],
    }
    pq.write_table(pa.table(table), f"{folder}/m.parquet")
    style = StyleSettings(
        weights=weights, image_size=image_size, iterations=iterations, scales=1, tolerance=0
    )
    job = JobSettings(
        manifest=f"{folder}/m.parquet", output=f"{folder}/out", rows_per_block=rows_per_block
    )
    return run_job(style, job)


def _recorded(folder: str, column: str) -> pa.ChunkedArray:
    return pq.read_table(f"{folder}/out/records", columns=[column])[column]


def _planning(rows: int, columns: str) -> Numbers:
    from pipeline.data.ids import hash_ids
    from pipeline.data.manifest import manifest, planning
    from pipeline.data.manifest.rows import RowChecker

    with tempfile.TemporaryDirectory() as folder:
        source = f"{folder}/m.parquet"
        _write_manifest(source, rows, columns == "many")
        started_with = _peak_mib()
        checker = RowChecker(folder, "fingerprint", frozenset({"file"}))
        started = time.perf_counter()
        opened = manifest.open_manifest(source, {})
        plan = planning.write_plan(opened, f"{folder}/plan", {}, checker=checker, limit=None)
        planned = time.perf_counter()
        half = hash_ids(f"p{index:08d}" for index in range(0, rows, 2))
        counted = time.perf_counter()
        done = plan.count_done(half)
        ended = time.perf_counter()
    return {
        "faulty": plan.faulty,
        "done": done,
        "seconds": planned - started,
        "count_seconds": ended - counted,
        "start_mib": started_with,
    }


def _write_manifest(path: str, rows: int, many: bool) -> None:
    """Rows of contents and styles; a piece in memory at a time."""
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, 50_000):
        numbers = range(start, min(start + 50_000, rows))
        columns: dict[str, Any] = {
            "pair_id": [f"p{n:08d}" if n % 2 == 0 else None for n in numbers],
            "content_uri": [f"images/{n % 1000:04d}/{n:08d}.jpg" for n in numbers],
            "style_uri": [f"paintings/{n * 7919 % 5000:04d}.jpg" for n in numbers],
        }
        if many:
            columns |= {"label": [f"n{n % 1000:04d}" for n in numbers], "seed": [*numbers]}
            columns |= {"split": ["train"] * len(numbers), "image_size": [256] * len(numbers)}
            columns["source_id"] = [*numbers]
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def _closing(rows: int, files: int) -> Numbers:
    from pipeline.data.ids import hash_ids
    from pipeline.data.output import closing, resume

    with tempfile.TemporaryDirectory() as folder:
        _write_records(Path(folder), rows, files)
        started_with = _peak_mib()
        times = [time.perf_counter()]
        resume.repair(folder, {})
        times.append(time.perf_counter())
        done = hash_ids(resume.checkpointed_ids(folder, {}))
        times.append(time.perf_counter())
        summary, hashes = closing.close(folder, {}, done)
        times.append(time.perf_counter())
    seconds = dict(zip(("repair", "checkpoint", "close"), np.diff(times).tolist(), strict=True))
    return {
        "ok": summary["ok"],
        "done": len(np.intersect1d(done, hashes)),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "start_mib": started_with,
    }


def _write_records(folder: Path, rows: int, files: int) -> None:
    """An output's records and checkpoint, as a job leaves them."""
    from pipeline.data.output import records
    from pipeline.data.schemas import RECORD_SCHEMA

    per_file = rows // files
    row = {
        "status": "ok",
        "content_uri": "/data/images/0001/00000001.jpg",
        "style_uri": ["/data/paintings/0001.jpg"],
        "label": "n0001",
        "bytes": 100_000,
        "total_loss": 1.5,
        "content_loss": 0.5,
        "style_loss": 1.0,
        "loss_history": [1.0] * 100,
        "evaluations": 100,
        "load_seconds": 0.1,
        "optimize_seconds": 1.0,
        "store_seconds": 0.1,
    }
    table = pa.Table.from_pylist([row] * per_file, schema=RECORD_SCHEMA)
    for name in (records.RECORDS, records.CHECKPOINT, records.IMAGES):
        (folder / name).mkdir()
    for number in range(files):
        ids = [f"p{index:08d}" for index in range(number * per_file, (number + 1) * per_file)]
        columns = {"pair_id": ids, "file_name": [f"images/n0001/{name}.png" for name in ids]}
        for name, values in columns.items():
            table = table.set_column(RECORD_SCHEMA.get_field_index(name), name, pa.array(values))
        pq.write_table(table, folder / records.RECORDS / f"{number:06d}-0.parquet")
        done = pa.table({"pair_id": ids})
        pq.write_table(done, folder / records.CHECKPOINT / f"{number:06d}.parquet")


def _cache_hits(pairs: int, styles: int, cache: int, actors: int) -> Numbers:
    import torch

    from pipeline.data.manifest import manifest, planning
    from pipeline.data.manifest.rows import RowChecker
    from pipeline.settings import StyleSettings
    from pipeline.style.network.weights import load_network
    from pipeline.style.recipe import TargetCache

    chosen = [f"s{index % styles}.png" for index in range(pairs)]
    random.Random(0).shuffle(chosen)  # noqa: S311
    with tempfile.TemporaryDirectory() as folder:
        columns = {"content_uri": [f"c{n}.png" for n in range(pairs)], "style_uri": chosen}
        pq.write_table(pa.table(columns), f"{folder}/m.parquet")
        planning.write_plan(
            manifest.open_manifest(f"{folder}/m.parquet", {}),
            f"{folder}/plan",
            {},
            checker=RowChecker("", "fingerprint", frozenset({"file"})),
            limit=None,
        )
        planned = [uris[0] for uris in pq.read_table(f"{folder}/plan")["style_uri"].to_pylist()]
    settings = StyleSettings(weights="compact", image_size=32)
    network = load_network(settings)
    image = torch.rand(3, 32, 32)

    def rate(keys: list[str]) -> float:
        caches = [TargetCache(network, settings, cache) for _ in range(actors)]
        for place, key in enumerate(keys):
            caches[place // 4 % actors].get(key, image, (32, 32))
        return sum(each.hits for each in caches) / pairs

    return {"planned": rate(planned), "unplanned": rate(chosen), "best": 1 - styles / pairs}
