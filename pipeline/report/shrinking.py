"""Pictures are read and shrunk in a process of their own: one that ends it costs no report.

The process is this module, run by ``Shrinker``. It gets the storage options and then tasks, and
says which it has begun and what came of each, one JSON object a line.
"""

import base64
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.images import codec, sizing
from pipeline.data.storage import files, uris

PROGRAM = (
    "import sys; sys.path[:] = filter(None, sys.path); "
    "from pipeline.report import shrinking; shrinking.main()"
)
"""With -m, a ``pipeline`` in the current folder would be taken for this one."""

COMMAND = (sys.executable, "-c", PROGRAM)

TRIES = 3
"""Processes that a picture may end before it is given up."""

PATIENCE = 300.0
"""Seconds without any answer after which what is under way is given up: storage hangs."""

START_PATIENCE = 600.0
"""Seconds in which the process must have begun with something."""

QUALITY = 74

THREADS = 8
MOST_BYTES = 2**25
MOST_PIXELS = 2**25
"""Limits of one file and one picture: eight at a time take a GB at the very most."""


@dataclass(frozen=True)
class Task:
    """A picture to shrink to at most ``edge`` px; ``trusted`` ones may have any scheme."""

    uri: str
    edge: int
    trusted: bool


@dataclass(frozen=True)
class Picture:
    """A WebP file: base64, and the length of what that stands for."""

    text: str
    bytes: int


class Shrinker:
    """Shrinks pictures in another process, which is started when it is needed.

    Args:
        options: of all storages.
        allowed: schemes that are read of tasks that are not trusted.
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
        """The picture of each task by its URI; or the class of its error."""
        found: dict[str, Picture | str] = {}
        deaths: Counter[str] = Counter()
        barren = 0
        while left := [task for task in tasks if task.uri not in found]:
            # Together, but for those that may have ended a process: they go last, one by one.
            some = [task for task in left if not deaths[task.uri]] or left[:1]
            before = len(found)
            begun, hangs = self._run(some, found)
            barren = barren + 1 if not begun and len(found) == before else 0
            deaths.update(begun)
            if hangs:
                found.update(dict.fromkeys(begun, "read_failed"))
            lost = {task.uri for task in left} if barren >= TRIES else begun  # it does not start
            for uri in lost - found.keys():
                if barren >= TRIES or deaths[uri] >= TRIES:
                    found[uri] = "process_died"
        return found

    def _run(self, tasks: Sequence[Task], found: dict[str, Picture | str]) -> tuple[set[str], bool]:
        """Add what comes of the tasks to ``found``, until all are there or the process ends.

        Returns: those that were under way at its end, and whether it was ended because they hang.
        """
        begun: set[str] = set()
        waiting = {task.uri for task in tasks}
        self._start()
        self._send(b"".join(map(_line, map(dataclasses.asdict, tasks))))
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
                start_new_session=True,  # Ctrl-C is the caller's; this ends with its input
            )
            listener = (self.process.stdout, self.answers)
            threading.Thread(target=_listen, args=listener, daemon=True).start()
            self._send(self.start)

    def _send(self, data: bytes) -> None:
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):  # it has ended, which its answers tell as well
                self.process.stdin.write(data)
                self.process.stdin.flush()

    def _end(self) -> None:
        if self.process:
            self.process.kill()
            with contextlib.suppress(OSError):  # what was not sent
                self.process.communicate()
            self.process = None


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _listen(stream: Any, answers: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    with contextlib.suppress(OSError, ValueError):  # closed meanwhile, or a line cut off
        for line in stream:
            answers.put(json.loads(line))
    answers.put(None)


def main() -> None:
    """Answer tasks until there are no more."""
    options, allowed = pickle.load(sys.stdin.buffer)  # noqa: S301 (by the process that started it)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    lock = threading.Lock()

    def say(answer: dict[str, Any]) -> None:
        with lock:
            answers.write(_line(answer))
            answers.flush()

    def work(task: Task) -> None:
        say({"uri": task.uri, "begun": True})
        say({"uri": task.uri, **_shrink(task, options, allowed)})

    pool = ThreadPoolExecutor(THREADS)
    for line in sys.stdin.buffer:
        pool.submit(work, Task(**json.loads(line)))
    os._exit(0)  # nobody listens any more


def _shrink(task: Task, options: files.StorageOptions, allowed: frozenset[str]) -> dict[str, Any]:
    """A ``Picture``'s fields; or the class of the error. Never raises."""
    try:
        if not task.trusted:
            uris.check_scheme(task.uri, allowed)
        data = files.read_bytes(task.uri, options, MOST_BYTES)
        image = codec.decode(data, uris.redact(task.uri), MOST_PIXELS, enough=task.edge)
        scale = min(1.0, task.edge / max(image.size))
        width, height = (max(1, round(side * scale)) for side in image.size)
        made = codec.encode(sizing.resize(image, (width, height)), "webp", QUALITY)
    except RowError as error:
        return {"error": error.error_class}
    except Exception:  # a picture in a report is no reason to end anything
        return {"error": "unexpected"}
    return {"picture": {"text": base64.b64encode(made).decode(), "bytes": len(made)}}
