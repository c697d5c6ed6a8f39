"""The start of a style actor: the board hears of it before anything is loaded that may crash.

This module imports no torch. Ray restarts a process that crashes while it loads its libraries or
the network, without end, and no pair is to blame. The board ends this.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from pipeline.engine.board import Board


class StyleActor:
    """A ``StyleWorker`` in the form that Ray Data takes.

    Args:
        board: learns that this process starts, and that it is ready.
        weights: as for ``StyleWorker``.
        more: returns the other arguments of ``StyleWorker``. They hold credentials, which
            Ray's own metadata would show.

    Raises:
        RuntimeError: processes have ended here again and again.
    """

    def __init__(self, board: Board, weights: Any, more: Callable[[], Mapping[str, Any]]) -> None:
        board.start_actor()
        dog = board.watchdog()
        dog.begin("starting a style actor")
        from pipeline.engine.actor import StyleWorker

        self.worker = StyleWorker(board=board, weights=weights, **more())
        dog.close()
        board.add_actor()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Stylise one block of loaded rows and return it with its rows in the same order."""
        return await self.worker(table)
