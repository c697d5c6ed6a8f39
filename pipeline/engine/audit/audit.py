"""Audit of a finished output against its manifest: records, images and files, each as it should be.

Ray Data's tasks read the records and the images; the driver compares what they found with the
manifest and adds up. Nothing is written. A fault has one of these names:

==========================  ======================================================================
``missing_record``          a row of the manifest has no record
``duplicate_record``        a pair has more than one
``unknown_record``          its pair is not in the manifest (any more)
``changed_row``             it was made from other URIs, weights of styles, label, split or
                            overrides than the manifest's row now has
``unknown_status``          a record's status is neither ok nor error
``foreign_path``            a record names an image as no job does; it may lead out of the output
``unreadable_records``      a file of records is no Parquet file of ours
``half_written``            a file of records that was never committed
``missing_image``           an ok record's image is not there
``wrong_bytes``             the image has another length or digest than recorded
``unreadable_image``        it is as recorded, but does not open
``wrong_size``              it has another width or height than recorded
``shared_image``            two pairs' records name one image
``unreadable_index``        an index.json of shards is none of ours, or cannot be read
``unfinished_shards``       a run that was to make shards was killed, or is at it
``stale_shards``            the shards were made from other ok records than there are now; a job
                            brings those of its own --format in line, and leaves the others
``missing_shard``           a shard that the index names is not there
``wrong_shard``             it has another length or digest than the index says
``unfinished_overwrite``    a run with --overwrite was killed while it deleted, or is at it
``foreign_file``            no part of the output
``checkpoint_without_record``, ``record_without_checkpoint``, ``unreadable_checkpoint``
                            Ray Data's checkpoint says otherwise than the records
``read_failed``             storage refused or failed, so that this much is not known
==========================  ======================================================================
"""

import functools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from pipeline.data.errors import RowError
from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning, row_keys
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import clearing, lease, packing, records, resume
from pipeline.data.storage import failures, files, local, uris
from pipeline.data.words import counted
from pipeline.engine import prepare
from pipeline.engine.audit import packed
from pipeline.engine.audit.tasks import check_images, read_records
from pipeline.engine.board import Board
from pipeline.engine.resources import IO_CPUS
from pipeline.engine.runtime import cluster
from pipeline.engine.runtime.data_context import ray_data_settings
from pipeline.settings import JobSettings, SettingError, StyleSettings

logger = logging.getLogger(__name__)

EXAMPLES = 5
"""Named cases of each fault; the others are counted."""

IMAGES_PER_TASK = 64


class AuditError(ValueError):
    """The output cannot be audited. The message says why."""


@dataclass
class Verdict:
    """What an audit found. ``ok`` and ``errors`` count the pairs that have such a record.

    ``manifest_rows`` are more than ``pairs`` if the job has a limit.
    ``at_work`` says who had the output's lease meanwhile, if a run did: then nothing is final.
    """

    pairs: int
    manifest_rows: int
    ok: int = 0
    errors: int = 0
    images: int = 0
    image_bytes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    failed: list[tuple[str, str]] = field(default_factory=list)  # pair_id and why: the first few
    at_work: str | None = None

    def add(self, fault: str, what: str) -> None:
        """Count a fault; the first few are kept by name."""
        self.faults[fault] += 1
        named = self.examples.setdefault(fault, [])
        if len(named) < EXAMPLES:
            named.append(what[:300])


@dataclass(frozen=True)
class Expected:
    """The manifest's rows as numbers: 18 bytes each, so that millions fit in a driver.

    All arrays are in the order of ``ids``, which are sorted hashes of the pair_ids.
    """

    ids: npt.NDArray[np.int64]
    row_keys: npt.NDArray[np.int64]
    recorded: npt.NDArray[np.bool_]
    checkpointed: npt.NDArray[np.bool_]

    def find(self, pair_id: str) -> int | None:
        """The place of a pair in the arrays; None if the manifest does not have it."""
        key = hash(pair_id)
        place = int(np.searchsorted(self.ids, key))
        return place if place < len(self.ids) and self.ids[place] == key else None


@dataclass(frozen=True)
class Seen:
    """Hashes of what records have named so far: images, and ids that the manifest lacks."""

    names: set[int]
    unknown: set[int]


@cluster.stopped_by_signals()
def run_audit(job: JobSettings) -> Verdict:
    """Compare ``job.output`` with ``job.manifest``.

    Of the settings only manifest, output, limit, storage_options and verbose are read; those that
    ids depend on come from the output's ``job.json``. The driver keeps 18 bytes for each row of
    the manifest and about 100 for each image (a hash of its name), and for a moment what the
    storage lists below ``images/``.

    Raises:
        AuditError: there is nothing to audit: no ``job.json``, no manifest, no Ray, or the output
            cannot be listed.
    """
    options = job.storage_options or {}
    output, source = uris.absolute(job.output), uris.absolute(job.manifest)
    try:
        style, mark = _read_job(uris.join(output, records.JOB), options)
        manifest = manifests.open_manifest(source, options)
        base = manifests.base_of(source, options)
        # Schemes change no id, so those that the job allowed need not be known.
        allowed = frozenset({uris.scheme_of(source), *uris.OBJECT_STORES})
        checker = RowChecker(base, mark, allowed)
        planned = functools.partial(planning.planned_slices, manifest, checker, job.limit)
        expected = _expect(planned(), style, base, manifest.shown)
        verdict = Verdict(len(expected.ids), manifest.rows, at_work=lease.holder(output, options))

        ours = {
            *(*prepare.RESULTS, prepare.PLAN, resume.JOURNAL),
            *(records.JOB, records.SUMMARY, records.REPORT),
        }
        if source.rpartition("/")[0] == output:  # a job makes it there of two folders
            ours.add(source.rpartition("/")[2])
        shards = packed.compare_listings(output, options, verdict.add)
        file_names = records.committed_files(output, options)
        _check_top(output, ours, options, verdict)
        _check_records_folder(output, file_names, options, verdict)
        pairs, record_files = counted(verdict.pairs, "pair"), counted(len(file_names), "file")
        logger.info(f"{pairs}, {record_files} of records to check")
        seen = Seen(set(), set())
        if file_names:
            started_here = cluster.start_ray(job.verbose)
            try:
                for row in _checked(
                    file_names, output, options, base, job.verbose, job.stall_timeout
                ):
                    _compare(row, expected, seen, verdict)
                for fault, what in packed.wrong_shards(shards, output, options):
                    verdict.add(fault, what)
            finally:
                if started_here:
                    cluster.stop_ray()
        _check_images_folder(output, seen.names, options, verdict)
        flags = {"missing_record": ~expected.recorded}
        if _check_checkpoint(output, options, expected, seen.unknown, verdict):
            flags["record_without_checkpoint"] = expected.recorded & ~expected.checkpointed
        _name_flagged(planned, expected, flags, verdict)
        verdict.at_work = verdict.at_work or lease.holder(output, options)  # begun meanwhile
    except (SettingError, manifests.ManifestError, RowError, cluster.ClusterError) as error:
        raise AuditError(str(error)) from error
    return verdict


def _read_job(uri: str, options: files.StorageOptions) -> tuple[StyleSettings, str]:
    """The settings and the fingerprint in a ``job.json``.

    Raises:
        SettingError: there is none, or it is none of ours.
        RowError: it cannot be read.
    """
    shown = uris.redact(uri)
    try:
        described = json.loads(files.read_bytes(uri, options))
        records.refuse_later_version(described, shown)
        return prepare.style_of(described["settings"]), str(described["fingerprint"])
    except RowError as error:
        if error.error_class != "not_found":
            raise
        raise SettingError(f"output: {shown} does not exist; is this a job's output?") from error
    except records.LaterVersionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(f"output: {shown} was not written by this program") from error


def _expect(
    chunks: Iterable[list[dict[str, Any]]], style: StyleSettings, base: str, shown: str
) -> Expected:
    """The manifest's rows, none of them seen yet.

    Raises:
        ManifestError: it cannot be read, has no rows, or two rows have one pair_id.
    """
    ids: list[npt.NDArray[np.int64]] = []
    keys: list[npt.NDArray[np.int64]] = []
    for chunk in chunks:
        ids.append(hash_ids(row["pair_id"] for row in chunk))
        found = [row_keys.key_of_plan(row, style, base) for row in chunk]
        keys.append(np.array(found, np.int64))
    if not ids:
        raise manifests.ManifestError(f"manifest {shown}: it has no rows")
    every = np.concatenate(ids)
    order = np.argsort(every)
    every = every[order]
    if (every[1:] == every[:-1]).any():
        raise manifests.ManifestError(f"manifest {shown}: two rows have the same pair_id")
    unseen = np.zeros(len(every), np.bool_)
    return Expected(every, np.concatenate(keys)[order], unseen, unseen.copy())


def _checked(
    file_names: list[str],
    output: str,
    options: files.StorageOptions,
    base: str,
    verbose: bool,
    patience: float,
) -> Iterator[dict[str, Any]]:
    """Rows of ``FOUND``: every record of ``files``, its image checked. A block in memory at a time.

    Ray must have been started.
    """
    with ray_data_settings(verbose):
        named = ray.data.from_items([{"file": file} for file in file_names])
        board = Board.create(patience)
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
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from cast(pa.Table, batch).to_pylist()


def _compare(row: dict[str, Any], expected: Expected, seen: Seen, verdict: Verdict) -> None:
    """Count one row of ``FOUND``."""
    if row["fault"] is not None:
        verdict.add(row["fault"], row["what"])
    if row["pair_id"] is None:  # a whole file of records
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
            verdict.errors += 1
            if len(verdict.failed) < EXAMPLES:
                verdict.failed.append((row["pair_id"], row["what"] or ""))
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


def _check_top(
    output: str, ours: set[str], options: files.StorageOptions, verdict: Verdict
) -> None:
    shards = {
        form
        for form in packing.FORMATS
        if packing.own_index(output, form, options) or packing.is_empty(output, form, options)
    }
    known = {*ours, *shards, lease.LEASE}
    for name in files.names_in(output, options):
        if name == clearing.MARK:
            verdict.add(
                "unfinished_overwrite", f"{name}: run the job again, which deletes the rest"
            )
        elif name not in known and not local.is_leftover(name):
            verdict.add("foreign_file", name)


def _check_records_folder(
    output: str, committed: list[str], options: files.StorageOptions, verdict: Verdict
) -> None:
    known = {file.rpartition("/")[2] for file in committed}
    for name in _names_below(output, records.RECORDS, options):
        last = name.rpartition("/")[2]
        if last in known or local.is_leftover(last):
            continue
        ours = last.endswith(".parquet") and not last.startswith(".")
        verdict.add("half_written" if ours else "foreign_file", name)


def _check_images_folder(
    output: str, named: set[int], options: files.StorageOptions, verdict: Verdict
) -> None:
    """Whatever is not in ``named``, the hashes of the ok records' file names, is foreign."""
    for name in _names_below(output, records.IMAGES, options):
        *folders, last = name.split("/")
        metadata = last == "metadata.parquet" and len(folders) <= 2  # images/[SPLIT/]
        if hash(name) not in named and not metadata and not local.is_leftover(last):
            verdict.add("foreign_file", name)


def _names_below(output: str, folder: str, options: files.StorageOptions) -> Iterator[str]:
    """Every file below a folder of the output, hidden ones too, relative to the output."""
    for name in files.sizes(uris.join(output, folder), options):
        yield uris.join(folder, name)


def _check_checkpoint(
    output: str,
    options: files.StorageOptions,
    expected: Expected,
    unknown: set[int],
    verdict: Verdict,
) -> bool:
    """Mark the pairs that the checkpoint knows. Returns whether all of it could be read."""
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
    except Exception as error:  # a flipped byte shows in many ways
        verdict.add("unreadable_checkpoint", failures.reason(error))
        return False
    return True


def _name_flagged(
    planned: Callable[[], Iterable[list[dict[str, Any]]]],
    expected: Expected,
    flags: dict[str, npt.NDArray[np.bool_]],
    verdict: Verdict,
) -> None:
    """Add a fault for each flag; the ids, of which there are only hashes, are looked up again.

    Args:
        planned: reads the manifest's rows once more.
        flags: by fault, in the order of ``expected``.
    """
    if not any(flag.any() for flag in flags.values()):
        return
    for chunk in planned():
        for row in chunk:
            place = expected.find(row["pair_id"])
            for fault, flag in flags.items():
                if place is not None and flag[place]:
                    verdict.add(fault, row["pair_id"])
