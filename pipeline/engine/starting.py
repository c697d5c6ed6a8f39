"""A style actor's first moments: the board knows of it before anything is loaded that may crash.

This module brings in no torch. A process that dies as it loads its libraries, or the network, is
restarted by Ray without end, and no pair is to blame.
"""

from typing import Any

import pyarrow as pa

from pipeline.engine.board import Board


class StyleActor:
    """A ``StyleWorker`` as Ray Data is given it.

    Args:
        board: learns that a process starts, and that it is ready.
        arguments: the other ones of ``StyleWorker``.

    Raises:
        RuntimeError: processes have ended here again and again.
    """

    def __init__(self, board: Board, **arguments: Any) -> None:
        board.start_actor()
        dog = board.watchdog()
        dog.begin("starting a style actor")
        from pipeline.engine.actor import StyleWorker

        self.worker = StyleWorker(board=board, **arguments)
        dog.close()
        board.add_actor()

    async def __call__(self, table: pa.Table) -> pa.Table:
        """One block of the load stage's rows, in the same order."""
        return await self.worker(table)
