"""Work of a GPU as CUDA graphs: recorded once, then one launch each time."""

import logging
import threading
from collections.abc import Callable

import torch

from pipeline.style.device_faults import out_of_memory

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
            logger.warning("ticks are not recorded as a CUDA graph: %s", str(error))
            return None
        return graph


def recorder_of(device: torch.device) -> Recorder | None:
    """One for a GPU; processors have no graphs."""
    return Recorder(device) if device.type == "cuda" else None
