"""What each stage costs a row by itself: load, style actor and store in one process, without Ray.

The difference to ``engine.engine_cost`` is Ray's: its tasks, its object store, and the records.
"""

import asyncio
import functools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pyarrow as pa
import ray
import torch

from jobs.bench.alone import Numbers
from jobs.bench.instant import InstantBatcher
from jobs.bench.small_jobs import CONTENTS, STYLES, paint
from pipeline.data.output import lease
from pipeline.engine import actor
from pipeline.engine.runtime.hanging import Watchdog
from pipeline.engine.stages import loading, storing
from pipeline.engine.stages.context import Context
from pipeline.settings import StyleSettings
from pipeline.style.network.weights import load_weights


class QuietBoard:
    """A board that nobody asks."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None

    def count_crashes(self, _: Iterable[str]) -> dict[str, int]:
        """Return that no pair has crashed a process."""
        return {}

    def in_turn(
        self,
        _stage: str,
        work: Mapping[str, Callable[[], Any]],
        _given_up: object,
        settle: Callable[[], object],
    ) -> dict[str, Any]:
        """Do the work."""
        done = {name: each() for name, each in work.items()}
        settle()
        return done

    def watchdog(self) -> Watchdog:
        """Return a watchdog that sleeps."""
        return Watchdog(0, print)


def stage_cost(
    rows: int = 256, rounds: int = 5, image_size: int = 256, batch_size: int = 64
) -> Numbers:
    """Measure the CPU milliseconds a row of each stage, JPEG in and JPEG out.

    The device costs nothing. A figure is the least of all rounds: others may use the machine.

    Args:
        rows: rows of the one block.
        rounds: how often the block goes through the stages.
        image_size: edge of all pictures in pixels.
        batch_size: pairs that the actor would optimise together.
    """
    torch.set_num_threads(1)
    style = StyleSettings(weights="compact", image_size=image_size, scales=1)
    board: Any = QuietBoard()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/out"
        with lease.hold(output, {}, lambda: None) as ours:
            context = _context(style, output, ours.check)
            plan = _plan(folder, rows, image_size, context)
            worker = _worker(context, board, batch_size)
            stages: dict[str, Callable[[pa.Table], pa.Table]] = {
                "load": functools.partial(loading.load, context=context, board=board),
                "style actor": functools.partial(_run, worker),
                "store": functools.partial(storing.store, context=context, board=board),
            }
            for _ in range(rounds):
                block = plan
                for stage, work in stages.items():
                    started = time.process_time()
                    block = work(block)
                    seconds = time.process_time() - started
                    found[stage] = min(found.get(stage, math.inf), 1000 * seconds / rows)
                assert set(block["status"].to_pylist()) == {"ok"}  # noqa: S101
            files = len(list(Path(output).glob("images/*.jpg")))
    return {"files": files, "cpu_ms_per_row": sum(found.values()), **found}


def _run(worker: actor.StyleWorker, block: pa.Table) -> pa.Table:
    return asyncio.run(worker(block))


def _context(style: StyleSettings, output: str, fence: Callable[[], None]) -> Context:
    return Context(
        style=style,
        output=output,
        storage_options={},
        max_pixels=10**8,
        max_bytes=2**28,
        file_format="jpg",
        quality=95,
        embed_metadata=False,
        extra=pa.schema([]),
        weights_name=style.weights,
        weights_digest="",
        versions={},
        fence=fence,
    )


def _plan(folder: str, rows: int, image_size: int, context: Context) -> pa.Table:
    """Paint the pictures and return the rows of a plan."""
    paint(folder, image_size, "jpg")
    planned = [
        {
            "pair_id": f"p{n:07d}",
            "manifest_row": n,
            "content_uri": f"{folder}/c{n % CONTENTS}.jpg",
            "style_uri": [f"{folder}/s{n * STYLES // rows}.jpg"],
            "style_blend": [1.0],
            "file_stem": f"p{n:07d}",
            "overrides": "{}",
        }
        for n in range(rows)
    ]
    return pa.Table.from_pylist(planned, schema=context.schema())


def _worker(context: Context, board: Any, batch_size: int) -> actor.StyleWorker:
    """Return a real style actor's worker, outside of Ray, whose pairs are done at once."""
    state, _ = load_weights(context.style)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    here = SimpleNamespace(get_node_id=str)
    with (
        mock.patch.object(ray, "get", lambda reference: reference),
        mock.patch.object(ray, "get_gpu_ids", list),
        mock.patch.object(ray, "get_runtime_context", return_value=here),
        mock.patch.object(actor, "Batcher", InstantBatcher),
    ):
        return actor.StyleWorker(
            context, board, [arrays], batch_size, style_cache=8, threads=1, low_memory=False
        )
