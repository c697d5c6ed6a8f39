"""The part of an audit that compares shards with their index, and that with the records."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import ray.data

from pipeline.data.errors import RowError
from pipeline.data.manifest.features import CARD
from pipeline.data.output import dividing, packing
from pipeline.data.storage import files, local, uris
from pipeline.engine.audit.tasks import check_shards
from pipeline.engine.board import Board
from pipeline.engine.ray_tasks import rows_of
from pipeline.engine.resources import IO_CPUS

Add = Callable[[str, str], None]
"""A function that takes the name of a fault and a description of it."""


def compare_listings(output: str, options: files.StorageOptions, add: Add) -> list[dict[str, Any]]:
    """Compare the formats' folders with their indices, and the indices with the records.

    Returns:
        ``name``, ``bytes`` and ``sha256`` of each file that exists with the size in its index.

    Raises:
        RowError: a folder cannot be listed.
    """
    there: list[dict[str, Any]] = []
    for form in packing.FORMATS:
        folder = uris.join(output, form)
        try:
            index = packing.read_index(folder, options)
        except RowError as error:
            add("unreadable_index", str(error))
            continue
        if index is None:
            continue
        _compare_records(output, index, options, add)
        found, named = files.sizes(folder, options), index.files()
        for name in sorted(found.keys() - named.keys() - {packing.INDEX, CARD}):
            unfinished = index.digest is None and packing.is_stale(name, index)
            if not unfinished and not local.is_leftover(name):
                add("foreign_file", f"{form}/{name}")
        for name, (size, sha256) in named.items():
            if name not in found:
                add("missing_shard", f"{form}/{name}")
            elif found[name] != size:
                add("wrong_shard", f"{form}/{name}")
            else:
                there.append({"name": f"{form}/{name}", "bytes": size, "sha256": sha256})
    return there


def _compare_records(
    output: str, index: packing.Index, options: files.StorageOptions, add: Add
) -> None:
    remedy = f"run the job again with --format {index.format}, or delete that folder"
    if index.digest is None:
        add("unfinished_shards", f"{index.format}/: {remedy}")
        return
    try:
        division = dividing.divide(output, index.format, index.shard_bytes, options)
    except (RowError, pa.ArrowException, OSError):
        return  # the audit of the records names what is wrong with them
    if division.digest != index.digest:
        add("stale_shards", f"{index.format}/: made from other images than there are now; {remedy}")


def wrong_shards(
    there: list[dict[str, Any]], output: str, options: files.StorageOptions, board: Board
) -> Iterator[tuple[str, str]]:
    """Read files in Ray's tasks, and yield the fault and the name of each wrong one.

    Ray must be ready.

    Args:
        there: what ``compare_listings`` returned.
        output: URI of the output.
        options: storage options, by scheme.
        board: learns which file is under way.
    """
    if not there:
        return
    named = ray.data.from_items(there)
    checked = named.map_batches(
        functools.partial(check_shards, output=output, options=options, board=board),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=IO_CPUS,
    )
    for row in rows_of(checked):
        yield row["fault"], row["what"]
