"""CUDA graphs: GPU work recorded once, then replayed with a single launch."""

import logging
import threading
from collections.abc import Callable

import torch

from pipeline.style.hardware.device_faults import out_of_memory

logger = logging.getLogger(__name__)

_recording = threading.Lock()
"""Held while a graph is recorded: one at a time in the process."""


class Recorder:
    """Records graphs that share one memory pool, as no two of them ever run at the same time.

    A graph must leave its results in buffers allocated outside of it: the next graph overwrites the
    shared memory.

    Args:
        device: a GPU, the current one or not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """Record the work as a graph; None where that fails, and kernels are launched one by one.

        Raises:
            RuntimeError: the device is out of memory.
        """
        graph = torch.cuda.CUDAGraph()
        # In the default mode an allocation by another thread, such as a notebook's or a loader's,
        # would break the recording.
        mode = "thread_local"
        try:
            with (
                _recording,
                torch.cuda.device(self.device),
                torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode=mode),
            ):
                work()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            logger.warning("no CUDA graph, kernels are launched one by one: %s", str(error))
            return None
        return graph


class Repeated:
    """Work that is repeated; on a GPU it is recorded after a few runs and then replayed.

    Args:
        recorder: the GPU's recorder; without one, kernels are launched one by one.
        warm_up: runs before the recording, in which libraries choose algorithms and allocate.
    """

    def __init__(self, recorder: Recorder | None, warm_up: int) -> None:
        self.recorder, self.warm_up = recorder, warm_up
        self.times = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Do the work, which must be the same each time.

        ``work`` is not kept, because it may refer to the owner of this object.
        """
        if self.graph is not None:
            self.graph.replay()
            return
        work()
        self.times += 1
        if self.times == self.warm_up and self.recorder is not None:
            self.graph = self.recorder.record(work)


def recorder_of(device: torch.device) -> Recorder | None:
    """Return a recorder for a GPU, and None for a CPU, which has no graphs."""
    return Recorder(device) if device.type == "cuda" else None
