"""Faults that tests put into Ray's workers through ``worker_process_setup_hook``.

Most of them patch the function that reads an image's pixels, so nothing heavy is imported here.
"""

import os
import signal
import sys
import time
from pathlib import Path

from pipeline.data.images import codec
from pipeline.data.output import shards
from pipeline.engine.stages import blocks, context


def runtime_env(fault: str) -> dict:
    """Return the ``runtime_env`` of ``ray.init`` whose workers have a fault."""
    return {
        "worker_process_setup_hook": f"tests.engine.faults.{fault}",
        "env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])},
    }


SLOW = runtime_env("slow")

unpack, decode, encode = blocks.pixels_of, codec.decode, codec.encode
write_tar = shards.write_tar


def poison() -> None:
    """Some pairs end the process that handles them.

    These are a content image of 96 px in the actor, a file of 80 px where it is decoded, a result
    of 112 px where it is encoded, and the pair p05 where it is packed.
    """

    def deadly_unpack(value):
        if value["width"] == 96:
            os.kill(os.getpid(), signal.SIGKILL)
        return unpack(value)

    def deadly_decode(data, name, max_pixels, **more):
        image = decode(data, name, max_pixels, **more)
        if image.width == 80:
            os.kill(os.getpid(), signal.SIGSEGV)
        return image

    def deadly_encode(pixels, *options):
        if pixels.shape[1] == 112:
            os.kill(os.getpid(), signal.SIGSEGV)
        return encode(pixels, *options)

    def deadly_tar(samples, classes):
        found = list(samples)
        if any(row["pair_id"] == "p05" for row, _ in found):
            os.kill(os.getpid(), signal.SIGKILL)
        return write_tar(found, classes)

    blocks.pixels_of, codec.decode, codec.encode = deadly_unpack, deadly_decode, deadly_encode
    shards.write_tar = deadly_tar


def hang() -> None:
    """What hangs: whoever decodes a file of 80 px or encodes a result of 112 px, and the actor that
    takes the first content of 96 px."""

    def endless_decode(data, name, max_pixels, **more):
        image = decode(data, name, max_pixels, **more)
        if image.width == 80:
            time.sleep(600)
        return image

    def endless_encode(pixels, *options):
        if pixels.shape[1] == 112:
            time.sleep(600)
        return encode(pixels, *options)

    def endless_unpack(value):
        if value["width"] == 96 and not os.path.exists(os.environ["HANGS_ONCE"]):
            Path(os.environ["HANGS_ONCE"]).touch()
            time.sleep(600)
        return unpack(value)

    codec.decode, codec.encode, blocks.pixels_of = endless_decode, endless_encode, endless_unpack


def slow() -> None:
    """Each pair takes most of a second, so that there is a middle to interrupt."""

    def slow_unpack(value):
        time.sleep(0.3)
        return unpack(value)

    blocks.pixels_of = slow_unpack


def sick() -> None:
    """Every pair ends its process, as on a machine whose libraries do not fit each other."""

    def deadly_unpack(value):
        os.kill(os.getpid(), signal.SIGKILL)

    blocks.pixels_of = deadly_unpack


def aimless() -> None:
    """A style actor breaks on the settings of a pair before it is under way."""
    row_settings = context.pair_settings

    def broken_settings(row, style):
        settings = row_settings(row, style)
        object.__setattr__(settings, "iterations", None)
        return settings

    context.pair_settings = broken_settings


def counted() -> None:
    """GPUs are what Ray counts, no more: actors that have one compute on their CPU."""
    import ray

    ray.get_gpu_ids = list


class _NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGKILL)


def failed_start() -> None:
    """Loading torch ends the process, as where its libraries do not fit the machine."""
    sys.meta_path.insert(0, _NoTorch())
