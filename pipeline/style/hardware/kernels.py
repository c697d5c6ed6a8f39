"""Our own CUDA kernels for NVIDIA GPUs: one pass over memory where PyTorch makes several.

``kernels.cu`` is compiled on the machine itself, for its GPU, by NVRTC through NVIDIA's package
cuda-bindings. Recent PyTorch depends on both, so no compiler has to be installed. Where compilation
is impossible (an old GPU, an AMD GPU), the callers fall back to PyTorch's operations.
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
"""The kernels' source file."""

Number = Tensor | int | float
"""A kernel argument."""


class Kernel:
    """A compiled kernel on one GPU, launched on PyTorch's current stream of that GPU."""

    def __init__(self, function: Any, device: int) -> None:
        self.function, self.device = function, device

    def __call__(self, grid: tuple[int, int], threads: int, *arguments: Number) -> None:
        """Launch the kernel on ``grid`` blocks of ``threads`` threads.

        Tensors are passed by address, whole numbers as int and other numbers as float.
        """
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
    """Return the C type that an argument is passed as."""
    if isinstance(argument, Tensor):
        return ctypes.c_void_p
    return ctypes.c_int if isinstance(argument, int) else ctypes.c_float


def kernel(name: str, like: Tensor) -> Kernel | None:
    """Return a kernel for the GPU that ``like`` is on; None if it cannot be compiled there.

    Args:
        name: the kernel's name with its template arguments.
        like: a tensor on the device to be used.

    Raises:
        torch.OutOfMemoryError: there is too little memory to find out.
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
        _warn_once(f"GPU ticks take about 25% longer: {error}; pip install cuda-bindings")
        return None
    except Exception as error:  # whatever is wrong with this CUDA, PyTorch's operations remain
        logger.warning("GPU ticks take longer: %s is left to PyTorch: %s", name, error)
        return None


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def _bind(device: int) -> None:
    """Make the GPU's context current in this thread.

    PyTorch does that with a thread's first work on a GPU, but a thread may begin with our kernels.
    """
    from cuda.bindings import driver

    (context,) = _checked(driver.cuCtxGetCurrent())
    if not int(context):
        (number,) = _checked(driver.cuDeviceGet(device))
        (context,) = _checked(driver.cuDevicePrimaryCtxRetain(number))
        _checked(driver.cuCtxSetCurrent(context))


def _compiled(name: str, device: int) -> Kernel:
    """Compile one kernel for a GPU and load it there."""
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
    """Check the error code of a CUDA call and return its other results.

    Raises:
        torch.OutOfMemoryError: the GPU is out of memory.
        RuntimeError: the call failed for another reason.
    """
    code, *found = answer
    if not int(code):
        return found
    if code.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise torch.OutOfMemoryError("CUDA out of memory, in the driver")
    raise RuntimeError(f"CUDA error: {code.name}")
