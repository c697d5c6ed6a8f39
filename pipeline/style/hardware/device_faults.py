"""Errors of a device: too little memory, a broken device, or the work's own fault."""

import torch

TOO_SMALL = ("out of memory", "ALLOC_FAILED", "unable to find an engine")
"""What CUDA, cuBLAS and cuDNN say where there is no memory for them."""


def give_back() -> None:
    """Let other shapes have the device's memory that is free."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether the device's memory was too small; its libraries have words of their own for it."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(each in words for each in TOO_SMALL)


def lost(error: Exception) -> bool:
    """The device is broken: every later pair would fail, sound or not."""
    return "CUDA error" in str(error) and not out_of_memory(error)


def plain(error: Exception) -> Exception:
    """Only words go on: the error's frames hold the lane's tensors."""
    if out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError(str(error))
    return error.with_traceback(None)
