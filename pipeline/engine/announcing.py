"""Tell the board which pairs begin and end, without making the ticking thread wait."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.engine.board import Board
from pipeline.engine.board_actor import Vitals


class Announcer:
    """A thread that tells the board which pairs begin and end, in the order of the calls.

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
            pair_ids: ids of pairs. Those that the board knows already are left out.
            alone: whether this one pair may end the process. Then no other pair is to be suspected.
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
            wait: whether to wait until it has heard of all of them.

        Raises:
            Exception: the board cannot be reached.
        """
        return {
            pair_id
            for pair_id, told in self.announced.items()
            if (wait or told.done()) and told.result() is None
        }

    def finish(self, pairs: Mapping[str, bool]) -> None:
        """Note that work on pairs is over, without waiting.

        Args:
            pairs: whether each ended well, by its id.
        """
        for pair_id in pairs:
            self.announced.pop(pair_id, None)
        if pairs:
            self.thread.submit(self.board.finish, pairs)

    def report(self, vitals: Vitals) -> None:
        """Report about this style actor, without waiting."""
        self.thread.submit(self.board.report, vitals)
