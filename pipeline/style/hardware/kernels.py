"""Kernels of our own for NVIDIA's GPUs, where PyTorch passes over memory several times.

``kernels.cu`` is compiled on the machine itself, for the GPU that is there, by NVRTC through
NVIDIA's package cuda-bindings, both of which newer PyTorch brings along: no compiler need be
installed. Where that is not possible, on an old GPU or an AMD one, or where sizes do not fit, the
callers do with PyTorch's own operations.
"""

import ctypes
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cu")

Number = Tensor | int | float


class Kernel:
    """A compiled kernel on one GPU; it is launched on PyTorch's current stream of that."""

    def __init__(self, function: Any, device: int) -> None:
        self.function, self.device = function, device

    def __call__(self, grid: tuple[int, int], threads: int, *arguments: Number) -> None:
        """Launch it. Tensors go by their address, whole numbers as int, others as float."""
        from cuda.bindings import driver

        values = tuple(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments)
        kinds = tuple(map(_kind, arguments))
        with torch.cuda.device(self.device):
            _bind(self.device)
            stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
            _checked(
                driver.cuLaunchKernel(
                    self.function, *grid, 1, threads, 1, 1, 0, stream, (values, kinds), 0
                )
            )


def _kind(argument: Number) -> type:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p
    return ctypes.c_int if isinstance(argument, int) else ctypes.c_float


def kernel(name: str, like: Tensor) -> Kernel | None:
    """The kernel of this name, with template arguments, for the GPU that ``like`` is on; None where
    there is none.

    Raises:
        torch.OutOfMemoryError: that cannot be known now.
    """
    if not like.is_cuda or torch.version.cuda is None:
        return None
    return _kernel(name, like.get_device())


@functools.cache
def _kernel(name: str, device: int) -> Kernel | None:
    try:
        with torch.cuda.device(device):
            _bind(device)
            return _compiled(name, device)
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        _tell_once(f"a GPU's ticks take a quarter longer: {error}; pip install cuda-bindings")
        return None
    except Exception as error:  # whatever is wrong with a machine's CUDA: there is another way
        logger.warning("a GPU's ticks take longer: %s is left to PyTorch: %s", name, error)
        return None


@functools.cache
def _tell_once(words: str) -> None:
    logger.warning("%s", words)


def _bind(device: int) -> None:
    """See that this thread has the GPU's context: PyTorch makes it current with the thread's first
    work there, which may be ours."""
    from cuda.bindings import driver

    (context,) = _checked(driver.cuCtxGetCurrent())
    if not int(context):
        (number,) = _checked(driver.cuDeviceGet(device))
        (context,) = _checked(driver.cuDevicePrimaryCtxRetain(number))
        _checked(driver.cuCtxSetCurrent(context))


def _compiled(name: str, device: int) -> Kernel:
    from cuda.bindings import driver, nvrtc

    major, minor = torch.cuda.get_device_capability(device)
    (program,) = _checked(
        nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], [])
    )
    try:
        _checked(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        options = [f"--gpu-architecture=sm_{major}{minor}".encode()]
        _checked(nvrtc.nvrtcCompileProgram(program, len(options), options))
        (lowered,) = _checked(nvrtc.nvrtcGetLoweredName(program, name.encode()))
        (size,) = _checked(nvrtc.nvrtcGetCUBINSize(program))
        binary = b" " * size
        _checked(nvrtc.nvrtcGetCUBIN(program, binary))
        (module,) = _checked(driver.cuModuleLoadData(binary))
        (function,) = _checked(driver.cuModuleGetFunction(module, lowered))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Kernel(function, device)


def _checked(answer: Sequence[Any]) -> Sequence[Any]:
    """What a call of CUDA's gives back beside its error code.

    Raises:
        torch.OutOfMemoryError: the GPU's memory was too small.
        RuntimeError: another error.
    """
    code, *found = answer
    if not int(code):
        return found
    if code.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise torch.OutOfMemoryError("CUDA out of memory, in the driver")
    raise RuntimeError(f"CUDA error: {code.name}")
