"""What a style actor tells the board of its pairs; the thread that ticks need not wait for it."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.engine.board import Board, Vitals


class Announcer:
    """Tells the board which pairs begin and end, on a thread of its own and in the order of calls.

    A pair is announced before its turn, many in one message. If the process dies, all announced
    pairs are suspected, whether they had begun or not: announce few.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.announced: dict[str, Future[None]] = {}  # pairs that have not ended
        self.thread = ThreadPoolExecutor(1, "announcing")

    def announce(self, pair_ids: Sequence[str], *, alone: bool = False) -> None:
        """Tell the board that work on these pairs begins soon, without waiting.

        Args:
            pair_ids: those that it knows already are left out.
            alone: the only pair may end the process: no other one is to be suspected then.
        """
        others = [pair_id for pair_id in self.announced if pair_id not in pair_ids]
        if alone and others:
            self.thread.submit(self.board.end, others)
            for pair_id in others:
                del self.announced[pair_id]
        fresh = [pair_id for pair_id in pair_ids if pair_id not in self.announced]
        if fresh:
            told = self.thread.submit(self.board.begin, fresh)
            self.announced |= dict.fromkeys(fresh, told)

    def known(self, *, wait: bool) -> set[str]:
        """Return the announced pairs that the board has heard of.

        Args:
            wait: until it has heard of all of them.

        Raises:
            Exception: the board cannot be reached.
        """
        return {
            pair_id
            for pair_id, told in self.announced.items()
            if (wait or told.done()) and told.result() is None
        }

    def finish(self, pair_id: str, *, ok: bool) -> None:
        """Note that work on a pair is over, well or not, without waiting."""
        self.announced.pop(pair_id, None)
        self.thread.submit(self.board.finish, pair_id, ok=ok)

    def report(self, vitals: Vitals) -> None:
        """Say how this style actor goes, without waiting."""
        self.thread.submit(self.board.report, vitals)
