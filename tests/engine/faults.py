"""Faults that tests put into Ray's workers through ``worker_process_setup_hook``.

Most of them patch the function that reads an image's pixels, so nothing heavy is imported here.
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

from pipeline.data.images import codec
from pipeline.data.output import shards
from pipeline.data.storage import tables
from pipeline.engine.stages import blocks, context

MOST_CRASHES = 6
MOST_ACTORS_CRASHES = 12
"""Crashes of one kind, and of any style actor; then work goes on. So a job that gives up nothing
comes to its end, and the test can say so."""

HANG = 30.0
"""Seconds that a hang lasts: many times what the tests allow, and a job that waits goes on."""


def runtime_env(fault: str, marks: Path | None = None) -> dict:
    """Return the ``runtime_env`` of ``ray.init`` whose workers have a fault.

    ``marks`` is a folder in which the faults count what they did: a file for each kind, and in it a
    byte for each time.
    """
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
    if fault == "failed_start":
        variables["OWN_PYTHON"] = "1"
    if marks is not None:
        marks.mkdir()
        variables["FAULTS"] = str(marks)
    return {
        "worker_process_setup_hook": f"tests.engine.faults.{fault}",
        "env_vars": variables,
    }


def count(kind: str) -> int:
    """Note one more of this kind, and return how many there were."""
    mark = Path(os.environ["FAULTS"], kind)
    with mark.open("ab") as file:
        file.write(b"x")
    return mark.stat().st_size


def crashes(marks: Path) -> dict[str, int]:
    """Return how many processes each kind has ended, with those that were to be."""
    found = {mark.name: mark.stat().st_size for mark in marks.iterdir()}
    return {kind: size for kind, size in found.items() if not kind.startswith("slow ")}


def crash(kind: str, number: int = signal.SIGKILL, most: int = MOST_CRASHES) -> None:
    """End this process by a signal, unless that has happened ``most`` times."""
    if count(kind) <= most:
        os.kill(os.getpid(), number)


def hang_once(kind: str) -> None:
    """Hang, unless this kind has hung before."""
    if count(f"slow {kind}") == 1:
        time.sleep(HANG)


SLOW = runtime_env("slow")

unpack, decode, encode = blocks.pixels_of, codec.decode, codec.encode
write_tar, read_table = shards.write_tar, tables.read_table


class Watched:
    """Pixels for a style actor that call ``act`` when work on their pair begins."""

    def __init__(self, value, act):
        self.pixels, self.act = unpack(value), act
        self.shape = self.pixels.shape

    def __array__(self, dtype=None, copy=None):
        self.act(self.shape[1])
        return self.pixels.copy()


def watch_actors(act) -> None:
    """Have ``act`` told the width of each image that a style actor begins with."""

    def pixels_of(value):
        is_actor = "pipeline.engine.actor" in sys.modules
        return Watched(value, act) if is_actor else unpack(value)

    blocks.pixels_of = pixels_of


def poison() -> None:
    """Some pairs and files end the process that handles them, others make it hang once.

    A content image of 96 px ends the actor. A file of 80 px ends the process that decodes it, a
    result of 112 px the one that encodes it, the pair p05 the one that packs it, and a file of
    records called "deadly" the one that reads it. The first process that packs another shard
    hangs, and so does the first one that opens the result of p11.
    """

    def deadly(width):
        if width == 96:
            crash("stylizing")

    def deadly_decode(data, name, max_pixels, **more):
        image = decode(data, name, max_pixels, **more)
        if image.width == 80:
            crash("opening" if name == "images/p10.png" else "loading", signal.SIGSEGV)
        if name == "images/p11.png":
            hang_once("opening")
        return image

    def deadly_encode(pixels, *options):
        if pixels.shape[1] == 112:
            crash("storing", signal.SIGSEGV)
        return encode(pixels, *options)

    def deadly_tar(samples, classes):
        found = list(samples)
        if any(row["pair_id"] == "p05" for row, _ in found):
            crash("packing")
        else:
            hang_once("packing")
        return write_tar(found, classes)

    def deadly_read(uri, options):
        if uri.endswith("deadly.parquet"):
            crash("reading")
        return read_table(uri, options)

    watch_actors(deadly)
    codec.decode, codec.encode = deadly_decode, deadly_encode
    shards.write_tar, tables.read_table = deadly_tar, deadly_read


def hang() -> None:
    """What hangs: whoever decodes a file of 80 px or encodes a result of 112 px, and the actor that
    takes the first content of 96 px."""

    def endless_decode(data, name, max_pixels, **more):
        image = decode(data, name, max_pixels, **more)
        if image.width == 80:
            time.sleep(HANG)
        return image

    def endless_encode(pixels, *options):
        if pixels.shape[1] == 112:
            time.sleep(HANG)
        return encode(pixels, *options)

    watch_actors(lambda width: hang_once("actor") if width == 96 else None)
    codec.decode, codec.encode = endless_decode, endless_encode


def slow() -> None:
    """Each pair takes most of a second, so that there is a middle to interrupt."""

    watch_actors(lambda _: time.sleep(0.3))


def sick() -> None:
    """Every pair ends its process, as on a machine whose libraries do not fit each other."""

    watch_actors(lambda _: os.kill(os.getpid(), signal.SIGKILL))


def aimless() -> None:
    """A style actor breaks on the settings of a pair before it is under way."""
    row_settings = context.pair_settings
    count_once = functools.cache(count)  # in a process

    def broken_settings(row, style):
        settings = row_settings(row, style)
        is_actor = "pipeline.engine.actor" in sys.modules
        if is_actor and count_once("beginning") <= MOST_ACTORS_CRASHES:
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
            crash("starting", most=MOST_ACTORS_CRASHES)


def failed_start() -> None:
    """Loading torch ends the process, as where its libraries do not fit the machine.

    Its workers have a Python of their own, in which torch is not loaded yet.
    """
    sys.meta_path.insert(0, _NoTorch())
