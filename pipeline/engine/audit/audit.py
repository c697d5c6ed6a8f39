"""Audit a finished output against its manifest. Nothing is written.

Ray Data's tasks read the records and the images; the driver compares what they found with the
manifest. ``verdict`` lists the faults.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import ray.data

from pipeline.data.errors import RowError
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import lease, records, resume
from pipeline.data.storage import failures, files, uris
from pipeline.data.words import counted
from pipeline.engine import job_file
from pipeline.engine.audit import folders, shards
from pipeline.engine.audit.expected import Expected
from pipeline.engine.audit.tasks import check_images, read_records
from pipeline.engine.audit.verdict import Verdict
from pipeline.engine.board import Board
from pipeline.engine.ray_tasks import ray_ready, rows_of
from pipeline.engine.resources import IO_CPUS
from pipeline.engine.runtime import cluster
from pipeline.settings import JobSettings, SettingError, StyleSettings

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 64
"""Images that a task checks."""


class AuditError(ValueError):
    """The output cannot be audited. The message says why."""


@dataclass(frozen=True)
class Seen:
    """What the records have named so far, as hashes.

    Attributes:
        names: file names of images.
        unknown: pair ids that the manifest lacks.
    """

    names: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)


@cluster.stopped_by_signals()
def run_audit(job: JobSettings) -> Verdict:
    """Compare ``job.output`` with ``job.manifest``.

    The settings that pair ids depend on come from the output's ``job.json``. The driver keeps
    18 bytes for each row of the manifest and about 100 for each image (a hash of its name), and
    for a moment the storage's list of ``images/``.

    Args:
        job: only manifest, manifest_format, output, limit,
            storage_options, stall_timeout and verbose are used.

    Raises:
        AuditError: there is nothing to audit: no ``job.json``, no manifest, no Ray, or the output
            cannot be listed.
    """
    options = job.storage_options or {}
    output, source = uris.absolute(job.output), uris.absolute(job.manifest)
    try:
        style, fingerprint = _read_job(uris.join(output, records.JOB), options)
        manifest = manifests.open_manifest(source, options, job.manifest_format)
        base = manifests.base_of(source, options)
        # Schemes change no id, so those that the job allowed need not be known.
        allowed = frozenset({uris.scheme_of(source), *uris.OBJECT_STORES})
        checker = RowChecker(base, fingerprint, allowed)
        planned = functools.partial(planning.planned_slices, manifest, checker, job.limit)
        expected = Expected.of_rows(planned(), style, base, manifest.shown)
        verdict = Verdict(len(expected.ids), manifest.rows, at_work=lease.holder(output, options))

        shard_files = shards.compare_listings(output, options, verdict.add)
        record_files = records.committed_files(output, options)
        folders.check_top(output, source, options, verdict)
        folders.check_records_folder(output, record_files, options, verdict)
        pairs, shown = counted(verdict.pairs, "pair"), counted(len(record_files), "file")
        logger.info(f"{pairs}, {shown} of records to check")
        seen = Seen()
        if record_files:
            with ray_ready(job) as board:
                for row in _checked_records(record_files, output, options, base, board):
                    _compare(row, expected, seen, verdict)
                for fault, what in shards.wrong_shards(shard_files, output, options, board):
                    verdict.add(fault, what)
        folders.check_images_folder(output, seen.names, options, verdict)
        flags = {"missing_record": ~expected.recorded}
        if _check_checkpoint(output, options, expected, seen.unknown, verdict):
            flags["record_without_checkpoint"] = expected.recorded & ~expected.checkpointed
        _name_flagged(planned, expected, flags, verdict)
        verdict.at_work = verdict.at_work or lease.holder(output, options)  # one began meanwhile
    except (SettingError, manifests.ManifestError, RowError, cluster.ClusterError) as error:
        raise AuditError(str(error)) from error
    return verdict


def _read_job(uri: str, options: files.StorageOptions) -> tuple[StyleSettings, str]:
    """Return the style settings and the fingerprint in a ``job.json``.

    Raises:
        SettingError: there is none, or this program did not write it.
        RowError: it cannot be read.
    """
    shown = uris.redact(uri)
    try:
        described = job_file.parse(files.read_bytes(uri, options), uri)
        return job_file.style_of(described["settings"]), str(described["fingerprint"])
    except RowError as error:
        if error.error_class != "not_found":
            raise
        raise SettingError(f"output: {shown} does not exist; is this a job's output?") from error
    except (TypeError, AttributeError) as error:
        raise SettingError(f"output: {shown} was not written by this program") from error


def _checked_records(
    record_files: list[str], output: str, options: files.StorageOptions, base: str, board: Board
) -> Iterator[dict[str, Any]]:
    """Have Ray's tasks check every record and its image, and yield rows of ``FOUND``."""
    named = ray.data.from_items([{"file": file} for file in record_files])
    dataset = named.map_batches(
        functools.partial(read_records, options=options, base=base, board=board),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=IO_CPUS,
    )
    dataset = dataset.repartition(target_num_rows_per_block=IMAGES_PER_TASK)
    dataset = dataset.map_batches(
        functools.partial(check_images, output=output, options=options, board=board),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=IO_CPUS,
    )
    return rows_of(dataset)


def _compare(row: dict[str, Any], expected: Expected, seen: Seen, verdict: Verdict) -> None:
    """Compare one row of ``FOUND`` with the manifest, and count it."""
    if row["fault"] is not None:
        verdict.add(row["fault"], row["what"])
    if row["pair_id"] is None:  # stands for a whole file of records
        return
    place = expected.find(row["pair_id"])
    ok = row["status"] == "ok"
    if place is None:
        seen.unknown.add(hash(row["pair_id"]))
        verdict.add("unknown_record", row["pair_id"])
    elif expected.recorded[place]:
        verdict.add("duplicate_record", row["pair_id"])
        return  # its image is the first one's
    else:
        expected.recorded[place] = True
        verdict.ok += ok
        if row["status"] == "error":
            verdict.add_error(row["pair_id"], row["what"] or "")
        if expected.row_keys[place] != row["row_key"]:
            verdict.add("changed_row", row["pair_id"])
    if not ok:
        return
    if row["fault"] not in ("missing_image", "foreign_path", "read_failed"):
        verdict.images += 1
        verdict.image_bytes += row["bytes"] or 0
    name = hash(row["file_name"])
    if name in seen.names:
        verdict.add("shared_image", f"{row['pair_id']}: {row['file_name']}")
    seen.names.add(name)


def _check_checkpoint(
    output: str,
    options: files.StorageOptions,
    expected: Expected,
    unknown: set[int],
    verdict: Verdict,
) -> bool:
    """Mark the pairs that the checkpoint has. Return whether all of it could be read."""
    try:
        for pair_id in resume.checkpointed_ids(output, options):
            place = expected.find(pair_id)
            if place is not None:
                expected.checkpointed[place] = True
            recorded = hash(pair_id) in unknown if place is None else expected.recorded[place]
            if not recorded:
                verdict.add("checkpoint_without_record", pair_id)
    except records.DamagedError as error:
        verdict.add("unreadable_checkpoint", str(error))
        return False
    except RowError as error:
        verdict.add("read_failed", str(error))
        return False
    except Exception as error:  # a flipped byte can raise anything
        verdict.add("unreadable_checkpoint", failures.reason(error))
        return False
    return True


def _name_flagged(
    planned: Callable[[], Iterable[list[dict[str, Any]]]],
    expected: Expected,
    flags: dict[str, npt.NDArray[np.bool_]],
    verdict: Verdict,
) -> None:
    """Add a fault for each flag. Pair ids are read again, since ``expected`` has only hashes.

    Args:
        planned: reads the manifest's rows once more.
        expected: the manifest's rows.
        flags: (N,) flags by fault, in the order of ``expected``.
        verdict: takes the faults.
    """
    if not any(flag.any() for flag in flags.values()):
        return
    for chunk in planned():
        for row in chunk:
            place = expected.find(row["pair_id"])
            for fault, flag in flags.items():
                if place is not None and flag[place]:
                    verdict.add(fault, row["pair_id"])
