"""How a job uses the machines: actors, their CPUs and GPUs, batches and blocks."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.settings import JobSettings, StyleSettings

IO_CPUS = 0.25
"""CPUs that Ray reserves for a load or store task: they wait for storage most of the time."""


WRITE_CPUS = 0.1
"""Of a task that writes the records of several blocks. Another demand than a store task's, or Ray
Data would make one of the two and keep the pixels of all of them until the last is there."""


MOST_FILES = 5_000
"""Record files of a long job: a resumed one reads them all."""


BLOCK_BYTES = 2**28
"""Pixels of one block: some blocks of each stage are in the object store at a time."""


LONG_SHAPE = 2
"""Long edge to short edge of a picture that budgets allow for where ``image_size`` is the short
edge. Nothing but ``max_pixels`` bounds it there, and the plan has no sizes; photographs: 3:2."""


BLOCKS_IN_ACTOR = 3
"""Blocks that an actor has at hand: slots fill from the next one while one comes to its end."""


ACTOR_BYTES = 1_500_000_000
"""Host memory of an actor on CPUs before its first image: its process and VGG-19 at full width."""


PIXEL_BYTES = 2_400
"""Host memory for each pixel of an image that an actor optimises: VGG-19 at full width."""


LOAD_BYTES = 400_000_000
"""Host memory of a load task's process without its images."""


DECODED_BYTES = 13
"""Most host memory for each pixel of an image that is decoded (an RGBA PNG with a colour profile);
a plain JPEG takes 5."""


RAY_DATA_CPUS = 2
"""CPUs that actors must leave free: Ray Data's checkpoint filter holds a whole one for as long as
the plan is read, and looking at the plan's files wants some of another. With less a resumed job
waits for ever."""


@dataclass(frozen=True)
class Resources:
    """How a job uses the machines, with every choice made."""

    actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    threads: int
    batch_size: int
    rows_per_block: int
    rows_per_file: int
    """Pairs that are recorded together, at least: blocks, of whichever actors."""
    load_memory: int
    """Bytes of host memory that a load task reserves; 0 where the nodes' memory is not known."""


def choose_resources(
    job: JobSettings,
    style: StyleSettings,
    shapes: Collection[tuple[int | None, int]],
    nodes: Sequence[Mapping[str, float]],
    rows: int,
) -> Resources:
    """Fill what the user left open from what Ray has now.

    Args:
        shapes: of the plan.
        nodes: each node's resources by Ray's names: CPU, GPU, memory (bytes).
        rows: pairs to do.
    """
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = sum(math.floor(node.get("GPU", 0.0)) for node in nodes)
    on_gpu = job.gpus_per_actor if job.gpus_per_actor is not None else float(gpus > 0)
    batch = job.batch_size or (8 if on_gpu else 1)
    if on_gpu:
        actors = gpus * math.floor(1 / on_gpu)  # none has its share of two GPUs
    else:
        pixels = max(_pixels(style, size) for size in {None, *(size for size, _ in shapes)})
        need = ACTOR_BYTES + batch * PIXEL_BYTES * pixels
        room = [node.get("memory", 0.0) / need for node in nodes]
        actors = sum(math.floor(min(each)) for each in zip(cpus, room, strict=True))
    actors = job.actors or max(1, actors)
    # Small blocks lose little in a kill; but a job of a million pairs must not end in a million
    # files.
    grain = max(4 * batch, math.ceil(rows / MOST_FILES))
    # However large the images are, the blocks that an actor has at hand fill its slots.
    most = BLOCK_BYTES // _row_bytes(style, shapes)
    loaded = min(grain, max(math.ceil(batch / BLOCKS_IN_ACTOR), most))
    block = job.rows_per_block or max(1, min(loaded, math.ceil(rows / (4 * actors))))
    file = job.rows_per_block or max(block, math.ceil(rows / MOST_FILES))
    actors = min(actors, math.ceil(rows / block))
    threads, share = 1, 0.0
    if not on_gpu:
        largest = max(cpus, default=0.0)
        threads = max(1, min(round(sum(cpus) / actors), round(largest)))
        share = max(0.0, (sum(cpus) - RAY_DATA_CPUS - 2 * IO_CPUS) / actors)
        share = min(share, largest / 2)  # room beside it on its node
    reserved = job.cpus_per_actor if job.cpus_per_actor is not None else share
    if reserved == IO_CPUS:
        reserved += 0.01  # equal demands would let Ray Data load images inside the actor
    load = _load_memory(job, block * _row_bytes(style, shapes), nodes)
    return Resources(actors, on_gpu, reserved, threads, batch, block, file, load)


def _load_memory(job: JobSettings, block_bytes: int, nodes: Sequence[Mapping[str, float]]) -> int:
    """What the largest image takes that is let in, beside a block and its copy in Arrow.

    No more than the least node has: a task that fits nowhere would be waited for without end.
    """
    need = LOAD_BYTES + job.max_bytes + DECODED_BYTES * job.max_pixels + 2 * block_bytes
    known = [node["memory"] for node in nodes if node.get("CPU") and node.get("memory")]
    return int(min(need, *known)) if known else 0


def _pixels(style: StyleSettings, size: int | None) -> int:
    """Of a large picture once it is loaded, with ``size`` as its row's own image_size."""
    return (size or style.image_size) ** 2 * (LONG_SHAPE if style.image_edge == "short" else 1)


def _row_bytes(style: StyleSettings, shapes: Iterable[tuple[int | None, int]]) -> int:
    """Of the largest row of a loaded block: the pixels of its content and its style images."""
    pixels = [_pixels(style, size) * (1 + styles * style.style_scale**2) for size, styles in shapes]
    return max(1, math.ceil(3 * max(pixels, default=0)))
