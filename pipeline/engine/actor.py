"""The style actor: one VGG, a cache of style targets, and slots that are never idle.

Several blocks are in an actor at a time, and their pairs share one ``Batcher``. One thread runs the
ticks while the actor's event loop hands blocks in and out. So the device waits neither for a slow
pair nor for a load or a store.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch

from pipeline.data.errors import RowError
from pipeline.data.storage import failures
from pipeline.engine import metrics
from pipeline.engine.announcing import Announcer
from pipeline.engine.board import Board, give_up
from pipeline.engine.board_actor import TRIES, Vitals
from pipeline.engine.stages import blocks
from pipeline.engine.stages.context import Context, pair_settings
from pipeline.engine.stages.guarding import FAULT
from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.network.weights import build_network
from pipeline.style.recipe import Pair, TargetCache
from pipeline.style.serving.batching import Batcher, Outcome
from pipeline.style.serving.lane_pool import check_precision
from pipeline.style.serving.phases import Done, History, NonFiniteError, most_work, work_of

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(eq=False)
class _Block:
    """The pairs of a block that are not done: how many, and what is awaited until none is left."""

    left: int
    done: "Future[None]"


@dataclass(eq=False)
class _Submitted:
    """A pair in the actor.

    Attributes:
        pair_id: the pair's id.
        pair: its images and settings.
        suspect: whether it was under way when a process ended. Then it runs alone.
        row: gets the columns that the actor adds, once they are known.
        block: the pair's.
    """

    pair_id: str
    pair: Pair
    suspect: bool
    row: Row
    block: _Block


class StyleWorker:
    """The part of a ``StyleActor`` that needs torch: it turns loaded rows into stylised rows.

    Args:
        context: what all stages know.
        board: learns which pairs are under way here.
        weights: a list of one reference to the normalised state dict in Ray's object store. The
            state dict reaches each node once, however many actors the node has.
        batch_size: most pairs that are optimised together.
        style_cache: number of style targets to keep.
        threads: CPU threads; ignored on a GPU.
        low_memory: whether to compute activations again instead of keeping them.

    Raises:
        RuntimeError: Ray gave this actor a GPU that PyTorch cannot use.
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
        self.batcher = Batcher(
            self.network,
            batch_size,
            low_memory=low_memory,
            cache=self.cache,
            finish=recipe.finish_as_bytes,
        )
        self.received, self.most_work, self.finished, self.finished_work = 0, 0.0, 0, 0.0
        self.meter = metrics.Meter(self._totals, self.device, self._report)
        self.inbox: queue.SimpleQueue[_Submitted] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="ticks", daemon=True).start()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Stylise one block of loaded rows and return it with its rows in the same order."""
        rows = blocks.rows_of(table, without=self.context.extra.names)
        sound = [row for row in rows if row["fault_class"] is None]
        stylized = [row for row in sound if row["__style_images"]]
        for row in sound:
            if not row["__style_images"]:  # an original: it stays as it was loaded
                row["__stylized_image"] = row["__content_image"]
        originals = [row["pair_id"] for row in sound if not row["__style_images"]]
        if originals:
            self.board.finish(dict.fromkeys(originals, True))
        names = [row["pair_id"] for row in stylized]
        crashes = await asyncio.to_thread(self.board.count_crashes, names)
        for row in stylized:
            if crashes.get(row["pair_id"], 0) >= TRIES:
                row |= _fault_fields(give_up("stylizing", crashes[row["pair_id"]]))
        sound = [row for row in stylized if row["fault_class"] is None]
        if sound:
            block = _Block(len(sound), Future())
            for row in sound:
                pair, suspect = pair_of(row, self.context.style), row["pair_id"] in crashes
                self.inbox.put(_Submitted(row["pair_id"], pair, suspect, row, block))
            await asyncio.wrap_future(block.done)
        ours = [*FAULT, "__stylized_image", *blocks.OPTIMIZED]
        return blocks.with_columns(table, rows, ours, self.context.schema(*blocks.STYLIZED))

    def _work(self) -> None:
        """Tick for as long as the process lives."""
        torch.set_num_threads(self.threads)  # holds for the calling thread only
        dog = self.board.watchdog()
        try:
            while True:
                dog.end()
                self._receive()
                ready = self._announce()
                dog.begin(f"an evaluation on {self.device_name}")
                self._answer(self.batcher.tick(ready))
                self.meter.look(idle=not len(self.batcher))
        except BaseException:
            # The device or this code is broken, and blocks wait for results that will not come.
            # End as a crash would, so that Ray starts another process and the board counts it.
            logger.exception("the style actor cannot go on")
            os._exit(1)

    def _totals(self) -> dict[str, int]:
        return {
            "style_evaluations": self.batcher.occupied,
            "style_slot_evaluations": self.batcher.evaluated,
            "style_cache_hits": self.cache.hits,
            "style_cache_misses": self.cache.misses,
        }

    def _report(self, gpu_percent: float | None) -> None:
        hits = self.cache.hits
        self.announcer.report(
            Vitals(
                cache_hits=hits,
                cache_lookups=hits + self.cache.misses,
                gpu_percent=gpu_percent,
                work=self.batcher.work,
                received=self.received,
                most_work=self.most_work,
                finished=self.finished,
                finished_work=self.finished_work,
            )
        )

    def _receive(self) -> None:
        """Take the pairs that have arrived; wait for one if there is nothing else to do."""
        idle = not len(self.batcher)
        while True:
            try:
                submitted = self.inbox.get(block=idle)
            except queue.Empty:
                return
            idle = False
            # A suspect runs alone. If it ends this process too, little work is lost with it.
            self.batcher.submit(submitted, submitted.pair, suspect=submitted.suspect)
            self.received += 1
            self.most_work += most_work(submitted.pair.size, submitted.pair.settings)

    def _announce(self) -> set[Any]:
        """Tell the board which pairs begin next. Return those that it knows of: they may begin.

        Waits for the board only if there is nothing to evaluate meanwhile.
        """
        upcoming: list[Any] = self.batcher.upcoming(self.batcher.pool.slots)
        names = [submitted.pair_id for submitted in upcoming]
        self.announcer.announce(names, alone=any(each.suspect for each in upcoming))
        known = self.announcer.known(wait=not self.batcher.begun)
        return {submitted for submitted in upcoming if submitted.pair_id in known}

    def _answer(self, outcomes: Iterable[Outcome]) -> None:
        """Return finished pairs to the blocks that wait for them."""
        submitted: Any
        answers: list[tuple[_Submitted, Row]] = []
        ended: dict[str, bool] = {}
        for submitted, outcome in outcomes:
            if isinstance(outcome, Exception):
                fault = _fault(outcome)
                height, width = submitted.pair.size
                message = f"{width} x {height} px: {fault}"
                fields = _fault_fields(RowError(fault.error_class, message))
            else:
                fields = self._fields(outcome)
                metrics.optimized(outcome.slots)
                self.finished += 1
                self.finished_work += work_of(outcome.history.phases)
            ended[submitted.pair_id] = isinstance(outcome, Done)
            answers.append((submitted, fields))
        self.announcer.finish(ended)
        for submitted, fields in answers:
            submitted.row.update(fields)
            submitted.block.left -= 1
            if not submitted.block.left:
                submitted.block.done.set_result(None)

    def _fields(self, done: Done) -> Row:
        """Return the columns that a finished pair adds to its row."""
        return _facts(done.history) | {
            "__stylized_image": blocks.image_value(done.image.numpy()),
            "optimize_seconds": done.seconds,
            "batch_size": done.slots,
            "device": self.device_name,
            "node": self.node,
        }


def pair_of(row: Row, style: StyleSettings) -> Pair:
    """Return the pair of a loaded row: its images, and the job's settings with its overrides."""
    return Pair(
        content_image=blocks.pixels_of(row["__content_image"]),
        style_images=[blocks.pixels_of(image) for image in row["__style_images"]],
        settings=pair_settings(row, style),
        style_blend=row["style_blend"],
        style_keys=row["__style_keys"],
    )


def _facts(history: History) -> Row:
    """Return a pair's history as columns of its record."""
    return {
        "total_loss": history.total_loss,
        "content_loss": history.content_loss,
        "style_loss": history.style_loss,
        "tv_loss": history.tv_loss,
        "layer_losses": list(history.layers.items()),
        "content_image_losses": list(history.weights.layers.items()),
        "alpha": history.weights.alpha,
        "layer_weights": list(history.weights.w.items()),
        "loss_history": history.total,
        "steps": history.steps,
        "evaluations": history.evaluations,
        "stop_reason": history.stop,
    }


def _fault_fields(fault: RowError) -> Row:
    return {"fault_class": fault.error_class, "fault_message": str(fault)}


def _fault(error: Exception) -> RowError:
    if isinstance(error, torch.OutOfMemoryError):
        return RowError(
            "out_of_memory",
            "does not fit into the GPU's memory, even alone; make image_size smaller, or give "
            "--memory low",
        )
    if isinstance(error, NonFiniteError):
        return RowError(
            "non_finite_loss",
            "the loss is not finite at the start; check the weights, content_weight, style_weight",
        )
    return RowError("unexpected", failures.reason(error))
