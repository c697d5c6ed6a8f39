"""What a style actor tells the board of its pairs; the thread that ticks need not wait for it."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.engine.board import Board, Vitals


class Announcer:
    """Tells the board which pairs begin and end, on a thread of its own and in the order of calls.

    A pair that is foreseen is told of before its turn, many in one message. If the process dies,
    the pairs that were foreseen are suspected as well as those that had begun: foresee few.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.foreseen: dict[str, Future[None]] = {}  # pairs that have not begun
        self.thread = ThreadPoolExecutor(1, "announcing")

    def foresee(self, pairs: Iterable[str]) -> None:
        """Have the board know soon that work on these pairs begins; without waiting."""
        fresh = [pair for pair in pairs if pair not in self.foreseen]
        if fresh:
            told = self.thread.submit(self.board.begin, fresh)
            self.foreseen |= dict.fromkeys(fresh, told)

    def begin(self, pair: str, *, alone: bool) -> None:
        """Work on a pair begins; returns when the board knows.

        Args:
            pair: its pair_id.
            alone: it may end the process, and no other pair is to be suspected then.
        """
        if alone and self.foreseen:
            self.thread.submit(self.board.end, list(self.foreseen))
            self.foreseen.clear()
        self.foresee([pair])
        self.foreseen.pop(pair).result()

    def finish(self, pair: str, *, ok: bool) -> None:
        """Note that work on a pair is over, well or not, without waiting."""
        self.thread.submit(self.board.finish, pair, ok=ok)

    def report(self, vitals: Vitals) -> None:
        """Say how this style actor goes, without waiting."""
        self.thread.submit(self.board.report, vitals)
