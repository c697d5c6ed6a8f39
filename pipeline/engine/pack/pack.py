"""Shards for training, made on Ray from a finished output's records and images.

The image files stay: they and their records are what a job resumes from. Ray Data's tasks write the
shards, the driver their index. A packing that was killed is begun again by the next run.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from tqdm import tqdm

from pipeline.data.errors import RowError
from pipeline.data.output import dividing, lease, packing
from pipeline.data.storage import files, uris
from pipeline.data.words import counted
from pipeline.engine.board import Board
from pipeline.engine.pack.tasks import write_shards
from pipeline.engine.progress import hung_noted
from pipeline.engine.runtime import cluster
from pipeline.engine.runtime.data_context import ray_data_settings
from pipeline.settings import JobSettings

logger = logging.getLogger(__name__)


class PackError(RuntimeError):
    """The shards could not be made. The message says why; images and records are untouched."""


def pack(job: JobSettings, fence: Callable[[], None] = lease.unfenced) -> dict[str, Any] | None:
    """Bring the shards of ``job.format`` in line with the records; nothing to do for ``files``.

    Ray is started if there is something to write, and not ended. Says on standard error what it
    does, and which shards of another format are out of date.

    Args:
        fence: ``Lease.check``.

    Returns: how many ``shards`` and ``samples`` there are, and in which ``folder``; None for
    ``files``.

    Raises:
        PackError: an image is missing or changed, or the storage failed.
    """
    options, output = job.storage_options or {}, uris.absolute(job.output)
    try:
        for form in packing.FORMATS:
            if form != job.format:
                _say_if_stale(output, form, options)
        if job.format == "files":
            return None
        index = _bring_up_to_date(output, job, options, fence)
    except RowError as error:
        raise PackError(
            f"{job.format}: {error}; no index was written, images and records are untouched "
            "(python -m jobs.verify names every image that is not as recorded)"
        ) from error
    return {
        "folder": uris.redact(uris.join(output, job.format)),
        "shards": len(index.shards),
        "samples": sum(shard.samples for shard in index.shards),
    }


def _bring_up_to_date(
    output: str, job: JobSettings, options: files.StorageOptions, fence: Callable[[], None]
) -> packing.Index:
    folder = uris.join(output, job.format)
    packed = dividing.divide(output, job.format, round(job.shard_size * 1e6), options)
    packed = dataclasses.replace(packed, fence=fence)
    index = packing.read_index(folder, options)
    if index is None or not _is_current(index, packed, files.sizes(folder, options)):
        index = _write(packed, output, job, options)
    for name in files.sizes(folder, options):
        if packing.is_stale(name, index):
            files.delete(uris.join(folder, name), options)
    return index


def _is_current(index: packing.Index, packed: dividing.Packing, found: dict[str, int]) -> bool:
    made_from = (index.digest, index.shard_bytes) == (packed.digest, packed.shard_bytes)
    return made_from and all(found.get(name) == size for name, (size, _) in index.files().items())


def _write(
    packed: dividing.Packing, output: str, job: JobSettings, options: files.StorageOptions
) -> packing.Index:
    folder = uris.join(output, packed.format)
    packed.fence()
    packing.write_index(folder, packing.Index(packed.format, packed.shard_bytes), options)
    logger.info(
        f"packing {counted(packed.samples, 'image')} into "
        f"{counted(len(packed.ranges), 'shard')} below "
        f"{uris.redact(folder)}",
    )
    lines = tqdm(
        _write_shards(packed, output, job, options) if packed.samples else (),
        "shards",
        total=len(packed.ranges),
        disable=None,  # where there is no terminal
    )
    made, crashed = [], []
    for line in lines:
        fault_class, fault = line.pop("fault_class"), line.pop("fault")
        if fault_class == "process_died":
            crashed.append(fault)  # the shards beside it are written all the same
        elif fault is not None:
            raise RowError(fault_class, fault)
        else:
            made.append(packing.Shard(**line))
    if crashed:
        more = f" (and {counted(len(crashed) - 1, 'shard')} more)" if crashed[1:] else ""
        raise RowError("process_died", f"{crashed[0]}{more}")
    if sum(shard.samples for shard in made) != packed.samples:
        raise RowError("unexpected", "the shards hold fewer images than there are")
    made.sort(key=lambda shard: shard.name)
    index = packing.Index(
        packed.format, packed.shard_bytes, packed.digest, packed.classes, tuple(made)
    )
    packed.fence()
    packing.write_index(folder, index, options)
    return index


def _write_shards(
    packed: dividing.Packing, output: str, job: JobSettings, options: files.StorageOptions
) -> Iterator[dict[str, Any]]:
    """Lines of the index, as the shards are written. Images pass through no hands but a task's."""
    cluster.start_ray(job.verbose)
    board = Board.create(job.stall_timeout)
    with ray_data_settings(job.verbose), hung_noted(board):
        # In the object store, which spills: the driver may be small, and records are millions.
        tables = dividing.ok_records(output, packed.format, options)
        chunks = [ray.put(table) for table in tables]
        parts = ray.data.from_items([{"part": number} for number in range(len(packed.ranges))])
        written = parts.map_batches(
            functools.partial(
                write_shards,
                packed=packed,
                chunks=chunks,
                output=output,
                options=options,
                board=board,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
        for batch in written.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from cast(pa.Table, batch).to_pylist()


def _say_if_stale(output: str, form: str, options: files.StorageOptions) -> None:
    folder = uris.join(output, form)
    index = packing.own_index(output, form, options)
    if index is None:
        return
    packed = dividing.divide(output, form, index.shard_bytes, options)
    if not _is_current(index, packed, files.sizes(folder, options)):
        logger.info(
            f"note: the shards below {uris.redact(folder)} are not those of the images that "
            f"there are now; run again with --format {form}, or delete that folder",
        )
