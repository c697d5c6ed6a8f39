"""The process that ``Shrinker`` starts: it reads pictures and shrinks them to thumbnails."""

import base64
import json
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.images import codec, sizing
from pipeline.data.storage import files, uris
from pipeline.report.shrinking import Task, to_line

QUALITY = 74
"""WebP quality of a thumbnail, 1 to 100."""

THREADS = 8
"""Pictures read at the same time."""

MOST_BYTES = 2**25
MOST_PIXELS = 2**25
"""Limits for one file and one picture: eight at the same time take a GB at most."""


def main() -> None:
    """Answer tasks from standard input until it ends."""
    options, allowed = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started it)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps what a library prints out of the answers
    lock = threading.Lock()

    def answer(value: dict[str, Any]) -> None:
        with lock:
            answers.write(to_line(value))
            answers.flush()

    def work(task: Task) -> None:
        answer({"uri": task.uri, "begun": True})
        answer({"uri": task.uri, **_shrink(task, options, allowed)})

    pool = ThreadPoolExecutor(THREADS)
    for line in sys.stdin.buffer:
        pool.submit(work, Task(**json.loads(line)))
    os._exit(0)  # nobody listens any more, so unfinished tasks are dropped


def _shrink(task: Task, options: files.StorageOptions, allowed: frozenset[str]) -> dict[str, Any]:
    """Return the fields of a ``Picture``, or the class of the error. Never raises."""
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
    except Exception:  # one picture must not end the others
        return {"error": "unexpected"}
    return {"picture": {"text": base64.b64encode(made).decode(), "bytes": len(made)}}
