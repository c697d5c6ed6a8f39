"""Work of a GPU as CUDA graphs: recorded once, then one launch each time."""

import logging
import threading
from collections.abc import Callable

import torch

from pipeline.style.hardware.device_faults import out_of_memory

logger = logging.getLogger(__name__)

_recording = threading.Lock()


class Recorder:
    """Records works of which no two ever run at a time, so that their graphs share one memory.

    What a work leaves behind must lie in buffers from outside: the next graph writes over the rest.

    Args:
        device: a GPU, the current one or not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """The work as a graph; None where it cannot be recorded, for then launches serve as well.

        Raises:
            RuntimeError: the memory is too small.
        """
        graph = torch.cuda.CUDAGraph()
        # Else another thread's allocation, a notebook's or a loader's, would break the recording.
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
            logger.warning("no CUDA graph, each kernel is launched singly: %s", str(error))
            return None
        return graph


class Repeated:
    """A work that is done again and again; on a GPU, after a few times, by a recorded graph.

    Args:
        recorder: of the GPU; without one each kernel is launched singly.
        warm_up: times before it is recorded, in which libraries choose and allocate.
    """

    def __init__(self, recorder: Recorder | None, warm_up: int) -> None:
        self.recorder, self.warm_up = recorder, warm_up
        self.times = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Do it; the same ``work`` each time, which is not kept: it may hold whoever holds this."""
        if self.graph is not None:
            self.graph.replay()
            return
        work()
        self.times += 1
        if self.times == self.warm_up and self.recorder is not None:
            self.graph = self.recorder.record(work)


def recorder_of(device: torch.device) -> Recorder | None:
    """One for a GPU; processors have no graphs."""
    return Recorder(device) if device.type == "cuda" else None
