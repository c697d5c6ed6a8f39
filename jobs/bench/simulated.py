"""A style actor whose device is simulated: it sleeps as long as a GPU would compute.

So a machine without GPUs runs jobs with dozens of actors. All around the device is real: loading,
the board, blocks, storing. It imports no torch, so that many actors fit into the memory.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.engine.board import Board
from pipeline.engine.board_actor import Vitals
from pipeline.engine.stages import blocks

EVALUATIONS = 100
"""Evaluations that a pair is said to have taken: its record has so many losses."""

LOSSES = tuple(1.0 + 1 / (index + 3) for index in range(EVALUATIONS))
"""Losses that a pair is said to have had."""

SHARES = [(f"style.conv{block}_1", 0.2) for block in range(1, 6)]


class SimulatedActor:
    """Takes the place of ``StyleActor`` and makes pictures at a given rate.

    The content image is the result. Several blocks may wait for the device, as in the real actor.
    """

    device_seconds = 0.0
    """Seconds that the device takes for a picture."""

    def __init__(self, board: Board, weights: Any, more: Callable[[], dict[str, Any]]) -> None:
        board.start_actor()
        self.context, self.board = more()["context"], board
        self.device = asyncio.Lock()
        self.done = 0
        board.add_actor()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Return a block as if its rows had been stylised."""
        rows = blocks.rows_of(table, without=self.context.extra.names)
        names = [row["pair_id"] for row in rows]
        await asyncio.to_thread(self.board.begin, names)
        async with self.device:
            await asyncio.sleep(len(rows) * self.device_seconds)
        self.done += len(rows)
        for row in rows:
            row |= _facts(self.device_seconds) | {"__stylized_image": row["__content_image"]}
        self.board.finish(dict.fromkeys(names, True))
        done = float(self.done)
        self.board.report(
            Vitals(
                cache_hits=0,
                cache_lookups=0,
                gpu_percent=None,
                work=done,
                received=self.done,
                most_work=done,
                finished=self.done,
                finished_work=done,
            )
        )
        found_here = ["__stylized_image", *blocks.OPTIMIZED]
        schema = self.context.schema(*blocks.STYLIZED)
        return blocks.with_columns(table, rows, found_here, schema)


def _facts(seconds: float) -> dict[str, Any]:
    losses = ("total_loss", "content_loss", "style_loss", "tv_loss", "alpha")
    layers = ("layer_losses", "content_image_losses", "layer_weights")
    return {
        **dict.fromkeys(losses, 1.0),
        **dict.fromkeys(layers, SHARES),
        "loss_history": LOSSES,
        "steps": EVALUATIONS - 1,
        "evaluations": EVALUATIONS,
        "stop_reason": "iterations",
        "optimize_seconds": seconds,
        "batch_size": 1,
        "device": "simulated",
        "node": "simulated",
    }
