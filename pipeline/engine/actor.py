"""The style actor: one VGG, a cache of style targets, and batches of pairs of equal shape."""

import gc
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from torch import Tensor

from pipeline.data import storage
from pipeline.data.errors import RowError
from pipeline.engine import stages
from pipeline.engine.board import TRIES, Board, give_up
from pipeline.engine.stages import Context
from pipeline.settings import StyleSettings, replace
from pipeline.style.optimize import (
    PER_PAIR,
    History,
    NonFiniteError,
    Pair,
    StyleTarget,
    blend_targets,
    finish_colors,
    prepare_colors,
    style_targets,
    stylize_pairs,
)
from pipeline.style.vgg import VGG
from pipeline.style.weights import build_network

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Size = tuple[int, int]


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


class Stylizer:
    """A callable class for ``Dataset.map_batches``: loaded rows -> stylised rows.

    Args:
        context: what all stages know.
        board: learns what is under way here.
        weights: a list of one reference to the normalised state dict in Ray's object store: it
            reaches each node once, however many actors the node has.
        batch_size: most pairs optimised together.
        style_cache: style targets that are kept.
        threads: CPU threads; ignored on a GPU.
    """

    def __init__(
        self,
        context: Context,
        board: Board,
        weights: list[Any],
        batch_size: int,
        style_cache: int,
        threads: int,
    ) -> None:
        on_gpu = bool(ray.get_gpu_ids())
        if on_gpu and not torch.cuda.is_available():
            raise RuntimeError(
                "Ray gave this actor a GPU, but PyTorch sees none: install a CUDA build and its "
                "driver on the GPU nodes, or give --gpus-per-actor 0"
            )
        self.device = torch.device("cuda" if on_gpu else "cpu")
        if not on_gpu:
            torch.set_num_threads(threads)
        self.device_name = torch.cuda.get_device_name() if on_gpu else f"cpu x {threads}"
        self.node = ray.get_runtime_context().get_node_id()
        self.context, self.board = context, board
        self.batch_size = batch_size
        state = {name: torch.tensor(array) for name, array in ray.get(weights[0]).items()}
        self.network = build_network(state, context.style).to(self.device)
        self.cache = TargetCache(self.network, context.style, style_cache)
        self.fits: dict[Size, int] = {}  # batch sizes found after running out of memory
        board.add_actor()

    def __call__(self, table: pa.Table) -> pa.Table:
        """One block of the load stage's rows, in the same order."""
        rows: list[Row] = table.to_pylist()
        for batch in self._batches(rows):
            for index, outcome in self._solve(batch):
                rows[index] |= outcome
        schema = self.context.schema(*stages.STYLIZED)
        return pa.Table.from_pylist(
            [{name: row.get(name) for name in schema.names} for row in rows], schema=schema
        )

    def _batches(self, rows: list[Row]) -> Iterator[dict[int, Row]]:
        """Rows that can be optimised together; who has ended a process before comes first, alone.

        If such a row ends the next process too, little work is lost with it.
        """
        sound = {i: row for i, row in enumerate(rows) if row["fault_class"] is None}
        deaths = self.board.count_deaths(row["pair_id"] for row in sound.values())
        for index in sorted(sound, key=lambda i: -deaths.get(sound[i]["pair_id"], 0)):
            count = deaths.get(sound[index]["pair_id"], 0)
            if not count:
                break
            row = sound.pop(index)
            if count < TRIES:
                yield {index: row}
            else:
                fault = give_up("stylizing", count)
                row |= {"fault_class": fault.error_class, "fault_message": str(fault)}
        groups: OrderedDict[Any, list[int]] = OrderedDict()
        for index, row in sound.items():
            groups.setdefault(self._shape(row), []).append(index)
        for (size, _), waiting in groups.items():
            while waiting:
                count = min(self.batch_size, self.fits.get(size, self.batch_size))
                yield {index: sound[index] for index in waiting[:count]}
                waiting = waiting[count:]

    def _shape(self, row: Row) -> tuple[Size, StyleSettings]:
        """What the rows of a batch share: the size and all settings that are the batch's."""
        image = row["__content_image"]
        settings = stages.row_settings(row, self.context.style)
        shared = {name: getattr(self.context.style, name) for name in PER_PAIR}
        return (image["height"], image["width"]), replace(settings, **shared)

    def _solve(self, batch: dict[int, Row]) -> Iterable[tuple[int, Row]]:
        """Each row's outcome. A batch that fails is tried again in halves, down to single rows."""
        fault: RowError | None = None
        try:
            with self.board.working(row["pair_id"] for row in batch.values()):
                return self._optimize(batch)
        except Exception as error:
            if "CUDA error" in str(error):
                raise  # the context is broken: every later row would fail, sound or not
            # Only words leave this block: the error's frames hold the batch's tensors.
            fault = _fault(error)
        out_of_memory = fault.error_class == "out_of_memory"
        if out_of_memory:
            gc.collect()
            torch.cuda.empty_cache()
        if len(batch) == 1:
            ((index, row),) = batch.items()
            height, width = self._shape(row)[0]
            message = f"{width} x {height} px: {fault}"
            return [(index, {"fault_class": fault.error_class, "fault_message": message})]
        half = len(batch) // 2
        if out_of_memory:
            size = self._shape(next(iter(batch.values())))[0]
            self.fits[size] = min(half, self.fits.get(size, half))
            logger.warning("out of memory: batches of %s px are now %d pairs", size, half)
        items = list(batch.items())
        parts = (dict(items[:half]), dict(items[half:]))
        return [outcome for part in parts for outcome in self._solve(part)]

    def _optimize(self, batch: dict[int, Row]) -> list[tuple[int, Row]]:
        started = time.perf_counter()
        contents, pairs = [], []
        for row in batch.values():
            content = self._tensor(row["__content_image"])
            contents.append(content)
            pairs.append(self._pair(row, content))
        images, histories = stylize_pairs(self.network, pairs)
        outcomes = []
        for index, image, content, pair, history in zip(
            batch, images, contents, pairs, histories, strict=True
        ):
            finished = finish_colors(image, content, pair.settings.preserve_color)
            pixels = (finished * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            outcomes.append((index, stages.pack(pixels), history))
        seconds = (time.perf_counter() - started) / len(batch)
        shared = {
            "optimize_seconds": seconds,
            "batch_size": len(batch),
            "device": self.device_name,
            "node": self.node,
        }
        return [
            (index, {"__stylized_image": image, "__result": json.dumps(_facts(history) | shared)})
            for index, image, history in outcomes
        ]

    def _pair(self, row: Row, content: Tensor) -> Pair:
        settings = stages.row_settings(row, self.context.style)
        size = (content.shape[1], content.shape[2])
        styles = [self._tensor(image) for image in row["__style_images"]]
        mode = settings.preserve_color
        seen, prepared = prepare_colors(content, styles, mode)
        if mode == "none":
            targets = [
                self.cache.get(key, style, size)
                for key, style in zip(row["__style_keys"], prepared, strict=True)
            ]
        else:  # the style image now depends on the content image: nothing to keep
            targets = [style_targets(self.network, style, size, settings) for style in prepared]
        return Pair(seen, blend_targets(targets, row["style_blend"]), settings)

    def _tensor(self, image: Row) -> Tensor:
        """(3, H, W) in [0, 1] on the device."""
        pixels = torch.from_numpy(np.array(stages.unpack(image)))
        return pixels.to(self.device).permute(2, 0, 1).float().div(255)


def _facts(history: History) -> Row:
    facts = asdict(history)
    return {
        "loss_history": facts.pop("total"),
        "layer_losses": facts.pop("layers"),
        "stop_reason": facts.pop("stop"),
        **facts,
    }


def _fault(error: Exception) -> RowError:
    if isinstance(error, torch.OutOfMemoryError):
        return RowError(
            "out_of_memory", "does not fit into the GPU's memory, even alone; make image_size less"
        )
    if isinstance(error, NonFiniteError):
        return RowError(
            "non_finite_loss",
            "the loss is not finite at the start; check the weights, content_weight, style_weight",
        )
    return RowError("unexpected", storage.reason(error))
