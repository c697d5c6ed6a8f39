"""How much memory the method takes. Needs torch alone, no Ray."""

import subprocess

import torch

from jobs.bench.alone import Numbers, alone, forget_peak, peak_bytes
from jobs.bench.inputs import ready
from jobs.bench.style import lane_of
from pipeline.style.hardware.device_faults import out_of_memory
from pipeline.style.hardware.host_memory import keep_freed_memory


def memory(weights: str, size: int, batch: int, low: bool, device: str) -> Numbers:
    """Measure the peak bytes of a few ticks, above what the network itself takes.

    They are None where the memory was too small.
    """
    try:
        peak = alone(peak_of_ticks, weights, size, batch, low, device)["peak_bytes"]
    except subprocess.CalledProcessError as error:
        if error.returncode >= 0:  # else the system killed it
            raise
        peak = None
    return {
        "weights": weights, "size": size, "batch": batch, "memory": "low" if low else "normal",
        "device": device, "peak_bytes": peak, "bytes_per_image": peak and peak // batch,
    }  # fmt: skip


def peak_of_ticks(weights: str, size: int, batch: int, low: bool, device: str) -> Numbers:
    """Measure the peak bytes of three ticks in this process: of a GPU, or of the process itself."""
    keep_freed_memory()
    network, settings = ready(weights, device, tolerance=0)
    network(torch.zeros(1, 3, 64, 64, device=device), [settings.deepest_layer])
    before = _restart_peak(device)
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        lane = lane_of(network, settings, [image] * batch, image[:, :256, :256], low_memory=low)
        for _ in range(3):
            lane.tick()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return {"peak_bytes": None}
    return {"peak_bytes": _peak(device) - before}


def _restart_peak(device: str) -> int:
    """Return the bytes in use; ``_peak`` then gives the peak since now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    forget_peak()
    return peak_bytes()


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()
