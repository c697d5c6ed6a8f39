"""Choose how a job uses the machines: actors, their CPUs and GPUs, batches and blocks."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.settings import JobSettings, StyleSettings

IO_CPUS = 0.25
"""CPUs that Ray reserves for a load or store task, which waits for storage most of the time."""

WRITE_CPUS = 0.1
"""CPUs that Ray reserves for a task that writes the records of several blocks.

It must differ from a store task's. Otherwise Ray Data would fuse the two, and keep the pixels of
all these blocks until the last one is done.
"""

MOST_FILES = 5_000
"""Most record files of a long job, all of which a resumed job reads."""

BLOCK_BYTES = 2**28
"""Most bytes of pixels in a block. Several blocks of each stage are in the object store at once."""

LONG_SHAPE = 2
"""Assumed ratio of long edge to short edge where ``image_size`` is the short edge.

There only ``max_pixels`` bounds the long edge, and the plan has no sizes. Photographs have 3:2.
"""

BLOCKS_IN_ACTOR = 3
"""Blocks that an actor has at once, so that the next one fills slots while one comes to its end."""

ACTOR_BYTES = 1_500_000_000
"""Host memory of an actor on CPUs before its first image: the process and VGG-19 at full width."""

PIXEL_BYTES = 2_400
"""Bytes of host memory for each pixel that an actor optimises, with VGG-19 at full width."""

LEAST_SLOTS, MOST_SLOTS = 8, 64
"""Fewest and most pairs that a GPU optimises together, if the user leaves it open."""

SLOT_PIXELS = 2**21
"""Pixels that a GPU optimises together, with VGG-19 at full width: eight images of 512 px.

They take 4 GB there. Nothing was measured at other sizes yet.
"""

COMPACT_SHARE = 2
"""How many times as many pixels ``compact`` has in the memory that VGG-19 takes, rounded down."""

LOAD_BYTES = 400_000_000
"""Bytes of host memory of a load task's process without its images."""

DECODED_BYTES = 13
"""Most bytes of host memory for each pixel of an image while it is decoded.

An RGBA PNG with a colour profile takes so many, a plain JPEG takes 5.
"""

RAY_DATA_CPUS = 2
"""CPUs that actors must leave free.

Ray Data's checkpoint filter holds a whole CPU while the plan is read, and listing the plan's files
needs part of another. With fewer, a resumed job waits for ever.
"""


@dataclass(frozen=True)
class Resources:
    """How a job uses the machines, with every choice made.

    Attributes:
        actors: style actors.
        gpus_per_actor: GPUs that Ray reserves for each.
        cpus_per_actor: CPUs that Ray reserves for each.
        threads: CPU threads of each.
        batch_size: most pairs that an actor optimises together.
        rows_per_block: most pairs of a block.
        rows_per_file: pairs that are recorded together, at least.
        load_memory: bytes of host memory that a load task reserves; 0 if the nodes' memory is not
            known.
    """

    actors: int
    gpus_per_actor: float
    cpus_per_actor: float
    threads: int
    batch_size: int
    rows_per_block: int
    rows_per_file: int
    load_memory: int


def choose_resources(
    job: JobSettings,
    style: StyleSettings,
    shapes: Collection[tuple[int | None, int]],
    nodes: Sequence[Mapping[str, float]],
    rows: int,
) -> Resources:
    """Choose what the user left open, by what Ray has now.

    Args:
        job: settings of the job.
        style: settings of the style.
        shapes: the plan's shapes: ``image_size`` of the rows (None: the job's) and the number of
            their style images.
        nodes: resources of each node by Ray's names: CPU, GPU, memory (bytes).
        rows: pairs to do.
    """
    cpus = [node.get("CPU", 0.0) for node in nodes]
    gpus = sum(math.floor(node.get("GPU", 0.0)) for node in nodes)
    on_gpu = job.gpus_per_actor if job.gpus_per_actor is not None else float(gpus > 0)
    pixels = max(_pixels(style, size) for size in {None, *(size for size, _ in shapes)})
    if on_gpu:
        actors = gpus * math.floor(1 / on_gpu)  # an actor's share is of one GPU
        batch = job.batch_size or _slots(style, pixels)
    else:
        batch = job.batch_size or 1
        need = ACTOR_BYTES + batch * PIXEL_BYTES * pixels
        fit = [node.get("memory", 0.0) / need for node in nodes]
        actors = sum(math.floor(min(each)) for each in zip(cpus, fit, strict=True))
    actors = job.actors or max(1, actors)
    # Small blocks lose little in a kill, but a million pairs must not end in a million files.
    grain = max(4 * batch, math.ceil(rows / MOST_FILES))
    # However large the images are, the blocks that an actor has at once fill its slots.
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
        share = min(share, largest / 2)  # leaves room on its node
    reserved = job.cpus_per_actor if job.cpus_per_actor is not None else share
    if reserved == IO_CPUS:
        reserved += 0.01  # with equal demands Ray Data would load images inside the actor
    load = _load_memory(job, block * _row_bytes(style, shapes), nodes)
    return Resources(actors, on_gpu, reserved, threads, batch, block, file, load)


def _slots(style: StyleSettings, pixels: int) -> int:
    """Return how many pairs a GPU optimises together: more of small pictures.

    It depends on nothing that may change when a job is resumed, since rounding depends on it.
    """
    together = SLOT_PIXELS * (COMPACT_SHARE if style.weights == "compact" else 1)
    return min(MOST_SLOTS, max(LEAST_SLOTS, together // pixels))


def _load_memory(job: JobSettings, block_bytes: int, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the bytes that the largest allowed image needs, with a block and its copy in Arrow.

    It is no more than the smallest node has: the job would wait for ever for a task that fits
    nowhere.
    """
    need = LOAD_BYTES + job.max_bytes + DECODED_BYTES * job.max_pixels + 2 * block_bytes
    known = [node["memory"] for node in nodes if node.get("CPU") and node.get("memory")]
    return int(min(need, *known)) if known else 0


def _pixels(style: StyleSettings, size: int | None) -> int:
    """Return the pixels of a large image once it is loaded, at a row's own image_size, if any."""
    return (size or style.image_size) ** 2 * (LONG_SHAPE if style.image_edge == "short" else 1)


def _row_bytes(style: StyleSettings, shapes: Iterable[tuple[int | None, int]]) -> int:
    """Return the bytes of the largest loaded row: the pixels of its content and style images."""
    pixels = [_pixels(style, size) * (1 + styles * style.style_scale**2) for size, styles in shapes]
    return max(1, math.ceil(3 * max(pixels, default=0)))
