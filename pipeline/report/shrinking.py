"""Reading and shrinking pictures in a separate process, so that a crash costs no report.

The process runs ``pipeline.report.shrink_process``. It gets the storage options and then tasks, and
answers with one JSON object a line: which task it has begun, and what came of it.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.storage import files

PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from pipeline.report import shrink_process; shrink_process.main()"
)
"""Program of the process: with -m it would import a ``pipeline`` from the current folder."""

COMMAND = (sys.executable, "-c", PROGRAM)

TRIES = 3
"""Crashes after which a picture is given up."""

PATIENCE = 300.0
"""Seconds without an answer after which the tasks under way are given up: the storage hangs."""

START_PATIENCE = 600.0
"""Longest wait for the process to begin its first task, seconds."""


@dataclass(frozen=True)
class Task:
    """A picture to shrink to at most ``edge`` pixels; a ``trusted`` one may have any scheme."""

    uri: str
    edge: int
    trusted: bool


@dataclass(frozen=True)
class Picture:
    """A WebP file as base64, and its length before that encoding."""

    text: str
    bytes: int


class Shrinker:
    """Shrinks pictures in another process, which is started when it is first needed.

    Args:
        options: fsspec options by scheme.
        allowed: URI schemes that may be read for tasks that are not trusted.
    """

    def __init__(self, options: files.StorageOptions, allowed: frozenset[str]) -> None:
        self.start = pickle.dumps((options, allowed))
        self.process: subprocess.Popen[bytes] | None = None
        self.answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def __enter__(self) -> "Shrinker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def shrink(self, tasks: Sequence[Task]) -> dict[str, Picture | str]:
        """Return each task's picture by its URI, or the class of its error."""
        found: dict[str, Picture | str] = {}
        crashes: Counter[str] = Counter()
        failed_starts = 0
        while left := [task for task in tasks if task.uri not in found]:
            # All at once, except those that may have crashed the process: they follow one by one.
            some = [task for task in left if not crashes[task.uri]] or left[:1]
            before = len(found)
            begun, hangs = self._run(some, found)
            failed_starts = failed_starts + 1 if not begun and len(found) == before else 0
            crashes.update(begun)
            if hangs:
                found.update(dict.fromkeys(begun, "read_failed"))
            never_starts = failed_starts >= TRIES
            lost = {task.uri for task in left} if never_starts else begun
            for uri in lost - found.keys():
                if never_starts or crashes[uri] >= TRIES:
                    found[uri] = "process_died"
        return found

    def _run(self, tasks: Sequence[Task], found: dict[str, Picture | str]) -> tuple[set[str], bool]:
        """Add the tasks' results to ``found`` until all are there or the process ends.

        Returns:
            The URIs under way when the process ended, and whether it was ended because they hang.
        """
        begun: set[str] = set()
        waiting = {task.uri for task in tasks}
        self._start()
        self._send(b"".join(map(to_line, map(dataclasses.asdict, tasks))))
        while waiting:
            try:
                answer = self.answers.get(timeout=PATIENCE if begun else START_PATIENCE)
            except queue.Empty:
                self._end()
                return begun, True
            if answer is None:
                self._end()
                break
            uri = answer["uri"]
            if "begun" in answer:
                begun.add(uri)
                continue
            begun.discard(uri)
            waiting.discard(uri)
            picture = answer.get("picture")
            found[uri] = answer["error"] if picture is None else Picture(**picture)
        return begun, False

    def _start(self) -> None:
        if self.process is None:
            path = os.pathsep.join(filter(None, sys.path))
            self.answers = queue.SimpleQueue()
            self.process = subprocess.Popen(  # noqa: S603
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C goes to the caller only; this ends with its input
            )
            listener = (self.process.stdout, self.answers)
            threading.Thread(target=_listen, args=listener, daemon=True).start()
            self._send(self.start)

    def _send(self, data: bytes) -> None:
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):  # the process has ended; its answers show that too
                self.process.stdin.write(data)
                self.process.stdin.flush()

    def _end(self) -> None:
        if self.process:
            self.process.kill()
            with contextlib.suppress(OSError):  # input that was not sent
                self.process.communicate()
            self.process = None


def to_line(value: dict[str, Any]) -> bytes:
    """Return a JSON object as one line."""
    return json.dumps(value).encode() + b"\n"


def _listen(stream: Any, answers: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    with contextlib.suppress(OSError, ValueError):  # closed meanwhile, or a line cut off
        for line in stream:
            answers.put(json.loads(line))
    answers.put(None)
