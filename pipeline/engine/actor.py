"""The style actor: one VGG, a cache of style targets, and slots that are never idle.

Several blocks are in an actor at a time. Their rows meet in one ``Batcher``, whose ticks a thread
of its own runs, while the actor's event loop hands blocks in and out: the device waits neither for
a slow pair nor for a load or a store.
"""

import asyncio
import json
import logging
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from pipeline.data.errors import RowError
from pipeline.data.storage import failures
from pipeline.engine import metrics, stages
from pipeline.engine.announcing import Announcer
from pipeline.engine.board import TRIES, Board, give_up
from pipeline.engine.stages import Context
from pipeline.settings import StyleSettings
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.method.color import finish_colors, prepare_colors
from pipeline.style.method.targets import Size, StyleTarget, blend_targets, style_targets
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import build_network
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.lane_pool import check_precision
from pipeline.style.serving.pairs import Done, History, NonFiniteError, Pair, Request

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class TargetCache:
    """Style targets by style and content size, the least recently used leaves first."""

    def __init__(self, network: VGG, settings: StyleSettings, capacity: int) -> None:
        self.network, self.settings, self.capacity = network, settings, capacity
        self.targets: OrderedDict[tuple[str, Size], tuple[StyleTarget, ...]] = OrderedDict()
        self.hits, self.misses = 0, 0

    def get(self, key: str, style_image: Tensor, size: Size) -> tuple[StyleTarget, ...]:
        """The targets of ``style_image`` (3, H', W'), whose pixels have the digest ``key``."""
        if (key, size) in self.targets:
            self.hits += 1
            self.targets.move_to_end((key, size))
        else:
            self.misses += 1
            self.targets[key, size] = style_targets(self.network, style_image, size, self.settings)
            if len(self.targets) > self.capacity:
                self.targets.popitem(last=False)
        return self.targets[key, size]


@dataclass(eq=False)
class _Job:
    """A row on its way through the actor. alone: it may end the process; nobody is beside it."""

    row: Row
    settings: StyleSettings
    alone: bool
    outcome: "Future[Row]"

    @property
    def size(self) -> Size:
        image = self.row["__content_image"]
        return image["height"], image["width"]


class Stylizer:
    """An asynchronous callable for ``Dataset.map_batches``: loaded rows -> stylised rows.

    Args:
        context: what all stages know.
        board: learns what is under way here.
        weights: a list of one reference to the normalised state dict in Ray's object store: it
            reaches each node once, however many actors the node has.
        batch_size: most pairs optimised together.
        style_cache: style targets that are kept.
        threads: CPU threads; ignored on a GPU.
        low_memory: compute activations again instead of keeping them.
    """

    def __init__(
        self,
        context: Context,
        board: Board,
        weights: list[Any],
        batch_size: int,
        style_cache: int,
        threads: int,
        low_memory: bool,
    ) -> None:
        on_gpu = bool(ray.get_gpu_ids())
        if on_gpu and not torch.cuda.is_available():
            raise RuntimeError(
                "Ray gave this actor a GPU, but PyTorch sees none: install a CUDA build and its "
                "driver on the GPU nodes, or give --gpus-per-actor 0"
            )
        keep_freed_memory()
        self.device = torch.device("cuda" if on_gpu else "cpu")
        check_precision(context.style, self.device)
        self.threads = torch.get_num_threads() if on_gpu else threads
        self.device_name = torch.cuda.get_device_name() if on_gpu else f"cpu x {threads}"
        self.node = ray.get_runtime_context().get_node_id()
        self.context, self.board, self.announcer = context, board, Announcer(board)
        state = {name: torch.tensor(array) for name, array in ray.get(weights[0]).items()}
        self.network = build_network(state, context.style).to(self.device)
        self.cache = TargetCache(self.network, context.style, style_cache)
        self.batcher = Batcher(self.network, batch_size, low_memory=low_memory)
        self.meter = metrics.Meter(self._totals, self.device, board.report)
        self.inbox: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="ticks", daemon=True).start()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """One block of the load stage's rows, in the same order."""
        rows: list[Row] = table.to_pylist()
        sound = [row for row in rows if row["fault_class"] is None]
        names = [row["pair_id"] for row in sound]
        deaths = await asyncio.to_thread(self.board.count_deaths, names)
        outcomes = [self._take(row, deaths.get(row["pair_id"], 0)) for row in sound]
        for row, outcome in zip(sound, outcomes, strict=True):
            found: Row = await asyncio.wrap_future(outcome)
            row |= found
        schema = self.context.schema(*stages.STYLIZED)
        return pa.Table.from_pylist(
            [{name: row.get(name) for name in schema.names} for row in rows], schema=schema
        )

    def _take(self, row: Row, deaths: int) -> "Future[Row]":
        """Hand a row to the ticking thread."""
        outcome: Future[Row] = Future()
        if deaths >= TRIES:
            outcome.set_result(_fault_fields(give_up("stylizing", deaths)))
        else:
            settings = stages.row_settings(row, self.context.style)
            self.inbox.put(_Job(row, settings, deaths > 0, outcome))
        return outcome

    def _work(self) -> None:
        """Tick for as long as the process lives."""
        torch.set_num_threads(self.threads)  # a setting of the thread's own
        dog = self.board.watchdog()
        try:
            while True:
                dog.end()
                self._receive()
                self._foresee()
                dog.begin(f"an evaluation on {self.device_name}")
                self._answer(self.batcher.tick())
                self.meter.look(idle=not len(self.batcher))
        except BaseException:
            # The device or this code is broken. Rows wait for answers that nobody will give: end,
            # as a crash would, so that Ray starts another process and the board counts.
            logger.exception("the style actor cannot go on")
            os._exit(1)

    def _totals(self) -> dict[str, int]:
        return {
            "style_evaluations": self.batcher.occupied,
            "style_slot_evaluations": self.batcher.evaluated,
            "style_cache_hits": self.cache.hits,
            "style_cache_misses": self.cache.misses,
        }

    def _receive(self) -> None:
        """Take what has arrived; wait for it if there is nothing else to do."""
        idle = not len(self.batcher)
        while True:
            try:
                job = self.inbox.get(block=idle)
            except queue.Empty:
                return
            idle = False
            build = partial(self._pair, job)
            # If one that has ended a process ends this one too, little work is lost with it.
            self.batcher.submit(Request(job, job.size, job.settings, build, job.alone))

    def _foresee(self) -> None:
        """Let the board know in time of those that will fill the slots that come free."""
        upcoming = self.batcher.upcoming(self.batcher.pool.slots)
        jobs: list[Any] = [request.key for request in upcoming]
        self.announcer.foresee(job.row["pair_id"] for job in jobs)

    def _pair(self, job: _Job) -> Pair:
        """The row's problem. From here on the row is under way."""
        self.announcer.begin(job.row["pair_id"], alone=job.alone)
        settings = job.settings
        content = self._tensor(job.row["__content_image"])
        styles = [self._tensor(image) for image in job.row["__style_images"]]
        mode = settings.preserve_color
        seen, prepared = prepare_colors(content, styles, mode)
        if mode == "none":
            targets = [
                self.cache.get(key, style, job.size)
                for key, style in zip(job.row["__style_keys"], prepared, strict=True)
            ]
        else:  # the style image now depends on the content image: nothing to keep
            targets = [style_targets(self.network, style, job.size, settings) for style in prepared]
        return Pair(seen, blend_targets(targets, job.row["style_blend"]), settings)

    def _tensor(self, image: Row) -> Tensor:
        """(3, H, W) in [0, 1] on the device."""
        pixels = torch.from_numpy(np.array(stages.unpack(image)))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        return _unit(pixels.to(self.device, non_blocking=True))

    def _answer(self, answers: Iterable[tuple[Any, Done | Exception]]) -> None:
        """Give finished rows back to the blocks that wait for them."""
        for job, answer in answers:
            if isinstance(answer, Exception):
                fault = _fault(answer)
                height, width = job.size
                message = f"{width} x {height} px: {fault}"
                fields = _fault_fields(RowError(fault.error_class, message))
            else:
                fields = self._fields(job, answer)
                metrics.optimized(answer.slots)
            self.announcer.end(job.row["pair_id"])
            job.outcome.set_result(fields)

    def _fields(self, job: _Job, done: Done) -> Row:
        # On the CPU: a finished picture must not end for lack of the GPU's memory.
        content = _unit(torch.from_numpy(np.array(stages.unpack(job.row["__content_image"]))))
        image = finish_colors(done.image.cpu(), content, job.settings.preserve_color)
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        facts = _facts(done.history) | {
            "optimize_seconds": done.seconds,
            "batch_size": done.slots,
            "device": self.device_name,
            "node": self.node,
        }
        return {"__stylized_image": stages.pack(pixels), "__result": json.dumps(facts)}


def _unit(pixels: Tensor) -> Tensor:
    """Bytes (H, W, 3) as (3, H, W) in [0, 1]."""
    return pixels.permute(2, 0, 1).float().div(255)


def _facts(history: History) -> Row:
    facts = asdict(history)
    del facts["stages"]
    weights = facts.pop("weights")
    return {
        "alpha": weights["alpha"],
        "layer_weights": weights["w"],
        "content_image_losses": weights["layers"],
        "loss_history": facts.pop("total"),
        "layer_losses": facts.pop("layers"),
        "stop_reason": facts.pop("stop"),
        **facts,
    }


def _fault_fields(fault: RowError) -> Row:
    return {"fault_class": fault.error_class, "fault_message": str(fault)}


def _fault(error: Exception) -> RowError:
    if isinstance(error, torch.OutOfMemoryError):
        return RowError(
            "out_of_memory",
            "does not fit into the GPU's memory, even alone; make image_size less, or give "
            "--memory low",
        )
    if isinstance(error, NonFiniteError):
        return RowError(
            "non_finite_loss",
            "the loss is not finite at the start; check the weights, content_weight, style_weight",
        )
    return RowError("unexpected", failures.reason(error))
