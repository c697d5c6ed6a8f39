"""Work on the pairs of a block. Whatever happens to a pair becomes a fault in its row."""

import functools
from collections.abc import Callable
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.storage import failures
from pipeline.engine.board import Board

FAULT = ("fault_class", "fault_message")
"""Columns of a row that say what is wrong with it."""


def work_on_pairs(
    rows: list[dict[str, Any]],
    stage: str,
    work: Callable[[dict[str, Any]], dict[str, Any]],
    board: Board,
    settle: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Apply ``guarded`` to every row of a block and return the rows in the same order.

    A decoder or an encoder may crash, or exhaust the memory. The board therefore knows which pairs
    are under way, and a pair that ends process after process gets a fault.

    Args:
        rows: rows with a ``pair_id`` and a ``fault_class``.
        stage: what is done, for the fault's message: "loading".
        work: returns the columns that it adds to a row.
        board: the job's board.
        settle: completes the work of the pairs before the board hears that it is over.

    Raises:
        RuntimeError: pair after pair ended its processes and none succeeded.
    """
    sound = {row["pair_id"]: row for row in rows if row["fault_class"] is None}

    def give_up(pair_id: str, fault: RowError) -> dict[str, Any]:
        return with_fault(sound[pair_id], fault)

    tasks = {
        pair_id: functools.partial(guarded, row, functools.partial(work, row))
        for pair_id, row in sound.items()
    }
    done = board.in_turn(stage, tasks, give_up, settle=settle)
    return [done.get(row["pair_id"], row) for row in rows]


def guarded(row: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the row with the columns that ``work`` returns, or with the fault that it raises.

    A row that has a fault is returned as it is.
    """
    if row["fault_class"] is not None:
        return row
    try:
        return {**row, **work()}
    except RowError as error:
        return with_fault(row, error)
    except Exception as error:  # no pair may end the job
        return {**row, "fault_class": "unexpected", "fault_message": failures.reason(error)}


def with_fault(row: dict[str, Any], fault: RowError) -> dict[str, Any]:
    """Return a row with a fault."""
    return {**row, "fault_class": fault.error_class, "fault_message": str(fault)}
