"""Faults that tests put into Ray's workers by way of ``worker_process_setup_hook``.

They take hold where a worker reaches for an image's pixels: nothing heavy has to be imported.
"""

import os
import signal
import sys
import time
from pathlib import Path

from pipeline.data import images
from pipeline.engine import stages


def runtime_env(fault: str) -> dict:
    """For ``ray.init``."""
    return {
        "worker_process_setup_hook": f"tests.engine.faults.{fault}",
        "env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])},
    }


SLOW = runtime_env("slow")

unpack, decode = stages.unpack, images.decode


def poison() -> None:
    """A content of 96 px ends the actor's process, a file of 80 px its loader's."""

    def deadly_unpack(value):
        if value["width"] == 96:
            os.kill(os.getpid(), signal.SIGKILL)
        return unpack(value)

    def deadly_decode(data, name, max_pixels):
        image = decode(data, name, max_pixels)
        if image.width == 80:
            os.kill(os.getpid(), signal.SIGSEGV)
        return image

    stages.unpack, images.decode = deadly_unpack, deadly_decode


def slow() -> None:
    """Each pair takes most of a second, so that there is a middle to interrupt."""

    def slow_unpack(value):
        time.sleep(0.3)
        return unpack(value)

    stages.unpack = slow_unpack


def sick() -> None:
    """Every pair ends its process, as on a machine whose libraries do not fit each other."""

    def deadly_unpack(value):
        os.kill(os.getpid(), signal.SIGKILL)

    stages.unpack = deadly_unpack


def aimless() -> None:
    """A style actor breaks on the settings of a pair before it is under way."""
    row_settings = stages.row_settings

    def broken_settings(row, style):
        settings = row_settings(row, style)
        object.__setattr__(settings, "iterations", None)
        return settings

    stages.row_settings = broken_settings


def counted() -> None:
    """GPUs are what Ray counts, no more: actors that have one compute on their CPU."""
    import ray

    ray.get_gpu_ids = list


class _NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGKILL)


def stillborn() -> None:
    """Who loads torch is ended by it, as where its libraries do not fit the machine."""
    sys.meta_path.insert(0, _NoTorch())
