"""Telling apart a device's errors: too little memory, a broken device, or faulty work."""

import torch

TOO_SMALL = ("out of memory", "ALLOC_FAILED", "unable to find an engine")
"""What CUDA, cuBLAS and cuDNN say when they run out of memory."""


def give_back() -> None:
    """Release cached GPU memory, so that tensors of other shapes can use it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Tell whether the device's memory was too small, whichever library says so."""
    message = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(each in message for each in TOO_SMALL)


def lost(error: Exception) -> bool:
    """Tell whether the device is broken, so that every later pair would fail as well."""
    return "CUDA error" in str(error) and not out_of_memory(error)


def plain(error: Exception) -> Exception:
    """Drop an error's traceback, whose frames would keep the lane's tensors alive.

    Any error that means too little memory becomes a ``torch.OutOfMemoryError``.
    """
    if out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(str(error))
    return error.with_traceback(None)
