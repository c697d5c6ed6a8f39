"""The load and store stages with a clock at their parts. The benchmark's jobs run these.

Imports no torch, as load and store tasks do without it.
"""

import contextlib
import functools
import json
import operator
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from pipeline.data.images import codec, sizing
from pipeline.data.output.lease import Lease
from pipeline.data.storage import files
from pipeline.data.storage.together import Together
from pipeline.engine import metrics
from pipeline.engine.board import Board
from pipeline.engine.stages import loading, storing
from pipeline.engine.stages.context import Context

PLACES: tuple[tuple[str, Any, str], ...] = (
    ("read files", files, "read_bytes"),
    ("decode", codec, "decode"),
    ("resize", sizing, "resize"),
    ("encode", codec, "encode"),
    ("write files", Together, "write"),
    ("write files", Together, "finish"),
    ("digest", codec, "sha256"),
    ("metrics", metrics, "stored"),
    ("lease", Lease, "check"),
    ("board", Board, "enter"),
    ("board", Board, "_end"),
    ("board", Board, "add"),
)
"""Parts of a stage: name, and the function that does it. None calls another one."""


def load(table: pa.Table, folder: str, context: Context, board: Board) -> pa.Table:
    """Do ``loading.load`` and note in ``folder`` what its parts took."""
    with _noted("load", folder, len(table)):
        return loading.load(table, context, board)


def store(table: pa.Table, folder: str, context: Context, board: Board) -> pa.Table:
    """Do ``storing.store`` and note in ``folder`` what its parts took."""
    with _noted("store", folder, len(table)):
        return storing.store(table, context, board)


def named(work: Callable[..., pa.Table], folder: str) -> Callable[..., pa.Table]:
    """Return ``load`` or ``store`` with its folder, under its own name: Ray names tasks by it."""
    return functools.update_wrapper(functools.partial(work, folder=folder), work)


_last: list[float] = []  # this process's CPU time at the end of its latest piece of work


def note(folder: str, stage: str, rows: int, seconds: Mapping[str, float]) -> None:
    """Append to a file of this process what a block took.

    Besides the parts it notes the CPU time of the whole process since the end of the block before,
    with what Ray does around it. The first block of a process has none: it loads libraries.
    """
    now = time.process_time()
    line: dict[str, Any] = {"stage": stage, "rows": rows, "parts": seconds, "ended": time.time()}
    if _last:
        line["process"] = now - _last.pop()
    with Path(folder, f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    _last.append(time.process_time())


@contextlib.contextmanager
def _noted(stage: str, folder: str, rows: int) -> Iterator[None]:
    """Note the CPU seconds of this thread, by part."""
    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(part: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*values: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return real(*values, **named)
            finally:
                seconds[part] += time.thread_time() - started

        return call

    with contextlib.ExitStack() as stack:
        for part, owner, name in PLACES:
            if hasattr(owner, name):
                wrapped = timed(part, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, wrapped))
        started = time.thread_time()
        yield  # a block that raises is no figure
        whole = time.thread_time() - started
    seconds["rows, JSON, Arrow"] = whole - sum(seconds.values())
    note(folder, stage, rows, seconds)


def notes(folder: str) -> list[dict[str, Any]]:
    """Return what the processes noted, in the order in which the blocks ended."""
    lines = [line for path in Path(folder).glob("*.jsonl") for line in path.open()]
    return sorted(map(json.loads, lines), key=operator.itemgetter("ended"))


def a_row(noted: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the CPU milliseconds a row, by stage and by part of a stage."""
    seconds: defaultdict[str, float] = defaultdict(float)
    rows: Counter[str] = Counter()
    for line in noted:
        if "process" in line:
            stage, parts = line["stage"], line["parts"]
            named = {f"{stage}: {part}": value for part, value in parts.items()}
            for part, value in {stage: line["process"], **named}.items():
                seconds[part] += value
                rows[part] += line["rows"]
    return {part: 1000 * seconds[part] / rows[part] for part in sorted(seconds)}
