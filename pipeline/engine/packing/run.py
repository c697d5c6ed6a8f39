"""Make shards for training from a finished output's records and images, on Ray.

The image files stay: a job resumes from them and their records. Ray Data's tasks write the shards,
the driver writes their index. The next job repeats a packing that was killed.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Generator
from typing import Any

import ray
import ray.data

from pipeline.data.errors import RowError
from pipeline.data.manifest.features import CARD
from pipeline.data.output import cards, dividing, fences, packing
from pipeline.data.storage import files, uris
from pipeline.data.words import counted
from pipeline.engine import progress
from pipeline.engine.packing.tasks import write_shards
from pipeline.engine.progress import OnProgress, Progress
from pipeline.engine.ray_tasks import ray_ready, rows_of
from pipeline.settings import JobSettings

logger = logging.getLogger(__name__)


class PackingError(RuntimeError):
    """The shards could not be made. The message says why; images and records are untouched."""


def run_packing(
    job: JobSettings,
    fence: Callable[[], None] = fences.unfenced,
    on_progress: OnProgress = progress.unheard,
) -> dict[str, Any] | None:
    """Bring the shards of ``job.format`` in line with the records.

    Ray is started if there is something to write. The log says what is done, and which shards of
    another format are out of date.

    Args:
        job: settings of the job.
        fence: ``Lease.check``.
        on_progress: is told how many of the shards are written.

    Returns:
        How many ``shards`` and ``samples`` there are, and in which ``folder``; None if the format
        is ``files``, which needs no shards.

    Raises:
        PackingError: an image is missing or changed, or the storage failed.
        ClusterError: Ray cannot be reached or started.
        LostError: another job has taken the output over.
    """
    options, output = job.storage_options or {}, uris.absolute(job.output)
    try:
        for form in packing.FORMATS:
            if form != job.format:
                _say_if_stale(output, form, options)
        if job.format == "files":
            return None
        index = _bring_up_to_date(output, job, options, fence, on_progress)
    except RowError as error:
        raise PackingError(
            f"{job.format}: {error}; no index was written, images and records are untouched "
            "(python -m jobs.verify names every image that is not as recorded)"
        ) from error
    return {
        "folder": uris.redact(uris.join(output, job.format)),
        "shards": len(index.shards),
        "samples": sum(shard.samples for shard in index.shards),
    }


def _bring_up_to_date(
    output: str,
    job: JobSettings,
    options: files.StorageOptions,
    fence: Callable[[], None],
    on_progress: OnProgress,
) -> packing.Index:
    folder = uris.join(output, job.format)
    division = dividing.divide(output, job.format, round(job.shard_size * 1e6), options)
    division = dataclasses.replace(division, fence=fence)
    index = packing.read_index(folder, options)
    if index is None or not _is_current(index, division, files.sizes(folder, options)):
        index = _write(division, output, job, options, on_progress)
    if not cards.write(division, output, options):
        logger.info(f"note: {uris.redact(uris.join(folder, CARD))} was edited, and stays as it is")
    check = fences.lasting(fence)
    for name in files.sizes(folder, options):
        if packing.is_stale(name, index):
            check()
            files.delete(uris.join(folder, name), options)
    return index


def _is_current(index: packing.Index, division: dividing.Packing, found: dict[str, int]) -> bool:
    """Return whether the index fits the records, and the files found fit the index."""
    made_from = (index.digest, index.shard_bytes) == (division.digest, division.shard_bytes)
    return made_from and all(found.get(name) == size for name, (size, _) in index.files().items())


def _write(
    division: dividing.Packing,
    output: str,
    job: JobSettings,
    options: files.StorageOptions,
    on_progress: OnProgress,
) -> packing.Index:
    folder = uris.join(output, division.format)
    division.fence()
    packing.write_index(folder, packing.Index(division.format, division.shard_bytes), options)
    logger.info(
        f"packing {counted(division.samples, 'image')} into "
        f"{counted(len(division.ranges), 'shard')} below "
        f"{uris.redact(folder)}",
    )
    made, crashed = [], []
    with contextlib.closing(_write_shards(division, output, job, options)) as written:
        total = len(division.ranges)
        for done, line in enumerate(written, 1):
            on_progress(Progress(activity=progress.PACKING, total=total, done=done))
            fault_class, fault = line.pop("fault_class"), line.pop("fault")
            if fault_class == "process_died":
                crashed.append(fault)  # the other shards are written all the same
            elif fault is not None:
                raise RowError(fault_class, fault)
            else:
                made.append(packing.Shard(**line))
    if crashed:
        more = f" (and {counted(len(crashed) - 1, 'shard')} more)" if crashed[1:] else ""
        raise RowError("process_died", f"{crashed[0]}{more}")
    if sum(shard.samples for shard in made) != division.samples:
        raise RowError("unexpected", "the shards hold fewer images than there are")
    made.sort(key=lambda shard: shard.name)
    index = packing.Index(
        division.format,
        division.shard_bytes,
        division.digest,
        dict(division.columns.classes),
        tuple(made),
    )
    division.fence()
    packing.write_index(folder, index, options)
    return index


def _write_shards(
    division: dividing.Packing, output: str, job: JobSettings, options: files.StorageOptions
) -> Generator[dict[str, Any], None, None]:
    """Have Ray's tasks write the shards, and yield rows of ``WRITTEN`` as they are done.

    Only the tasks handle images.
    """
    if not division.samples:
        return
    with ray_ready(job) as board:
        # In the object store, which spills: the driver may be small, and records are millions.
        credits = division.columns.credits
        tables = dividing.ok_records(output, division.format, options, credits)
        chunks = [ray.put(table) for table in tables]
        numbers = ray.data.from_items([{"shard": n} for n in range(len(division.ranges))])
        written = numbers.map_batches(
            functools.partial(
                write_shards,
                division=division,
                chunks=chunks,
                output=output,
                options=options,
                board=board,
            ),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
        )
        yield from rows_of(written)


def _say_if_stale(output: str, form: str, options: files.StorageOptions) -> None:
    folder = uris.join(output, form)
    index = packing.own_index(output, form, options)
    if index is None:
        return
    division = dividing.divide(output, form, index.shard_bytes, options)
    if not _is_current(index, division, files.sizes(folder, options)):
        logger.info(
            f"note: the shards below {uris.redact(folder)} are not those of the images that "
            f"there are now; run again with --format {form}, or delete that folder",
        )
