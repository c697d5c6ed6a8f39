"""Ray Data's tasks in a packing and in an audit: have Ray ready, and read what the tasks return."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import ray.data

from pipeline.engine.board import Board
from pipeline.engine.following import hung_noted
from pipeline.engine.runtime import cluster
from pipeline.engine.runtime.data_context import ray_data_settings
from pipeline.settings import JobSettings


@contextlib.contextmanager
def ray_ready(job: JobSettings) -> Iterator[Board]:
    """Have Ray and Ray Data ready while the block runs, and yield a board for its tasks.

    The log says which of them hung. A Ray that was not running before is ended.

    Raises:
        ClusterError: Ray cannot be reached or started.
    """
    started_here = cluster.start_ray(job.verbose)
    try:
        board = Board.create(job.stall_timeout)
        with ray_data_settings(job.verbose), hung_noted(board):
            yield board
    finally:
        if started_here:
            cluster.stop_ray()


def rows_of(dataset: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Run a dataset's tasks and yield its rows. One block is in memory at a time."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch).to_pylist()
