"""Prepare the output of a checked job: repair it, write the plan and ``job.json``."""

import dataclasses
import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.data.errors import RowError
from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning
from pipeline.data.manifest.lineage import Lineage, of_manifest
from pipeline.data.output import clearing, fences, packing, records, resume
from pipeline.data.storage import files, local, uris
from pipeline.data.words import counted, some_of, taken
from pipeline.engine.checking import (
    RESULTS,
    Checked,
    check_output,
    find_clashes,
    make_context,
    make_plan,
    refuse_deleting_manifest,
)
from pipeline.engine.stages.context import Context
from pipeline.settings import SettingError
from pipeline.style.network.vgg import StateDict

logger = logging.getLogger(__name__)

PLAN = "__plan__"
"""Name of the plan's folder in the output."""

PROBE = f".probe{local.LEFTOVER}"
"""Name of a file that is written and deleted at the start.

Its ending has the next job delete what a kill left.
"""


@dataclass(frozen=True)
class Prepared:
    """A job that may start.

    Attributes:
        context: what every stage knows.
        plan: the plan that was written.
        pending: pairs to do.
        weights: the normalised weights.
    """

    context: Context
    plan: planning.Plan
    pending: int
    weights: StateDict


def prepare(checked: Checked, fence: Callable[[], None] = fences.unfenced) -> Prepared:
    """Check the output, repair it, write the plan and ``job.json``. The lease must be held.

    The records are compared with the plan before failed pairs are forgotten, so that a refused job
    has taken nothing away.

    Args:
        checked: the job.
        fence: ``Lease.check``.

    Raises:
        SettingError: the output does not fit the job, or cannot be written and deleted.
        ManifestError: the manifest has no rows, or two rows have one name.
        RowError: the storage failed.
        LostError: another job has taken the output over.
    """
    job, options, output = checked.job, checked.options, checked.output
    described = check_output(checked)
    earlier = Lineage() if job.overwrite else records.lineage_of(output, options)
    shards = () if job.format == "files" else (job.format,)
    for folder in (output, *(uris.join(output, name) for name in (*RESULTS, *shards))):
        _check_writing(folder, options)
    for form in packing.FORMATS:  # a job of another format may have been killed in _check_writing
        files.delete(uris.join(output, form, PROBE), options)
    fence()
    plan = make_plan(checked, uris.join(output, PLAN))
    fence()
    if job.overwrite or clearing.is_begun(output, options):
        _clear_output(output, checked.source, options, fence)
    clashes = find_clashes(checked, uris.join(output, PLAN))
    resume.repair(output, options, clashes)
    clashes.refuse(output)
    fence()
    if job.retry_errors:
        count = resume.forget_errors(output, options, plan.id_hashes)
        logger.info(f"{counted(count, 'failed pair')} will be done again")
    described |= {"manifest": uris.redact(checked.source), "manifest_digest": plan.digest}
    described |= {"rows": plan.rows, "started_at": now(), "title": job.title}
    described["data_set"] = _lineage(checked, plan, earlier).as_json()
    done = np.unique(hash_ids(resume.checkpointed_ids(output, options)))
    own = plan.count_done(done)
    described["recorded_of_others"] = len(done) - own
    records.write_json(uris.join(output, records.JOB), described, options)
    context = dataclasses.replace(make_context(checked, described), fence=fence)
    pending = plan.rows - own
    logger.info(
        f"{taken(plan.rows, checked.manifest.rows)}, {pending} to do, "
        f"weights {context.weights_name} ({checked.weights_digest[:12]})",
    )
    return Prepared(context, plan, pending, checked.weights)


def _lineage(checked: Checked, plan: planning.Plan, earlier: Lineage) -> Lineage:
    """Return what the output's sources say, and warn if their classes have no common ids."""
    base, schema = manifests.base_of(checked.source, checked.options), checked.manifest.schema
    own = of_manifest(base, schema, plan.class_ids, checked.options)
    both = own.after(earlier)
    fault = plan.class_fault
    if own.ids and not earlier.ids.keys() <= both.ids.keys():
        fault = "an earlier manifest of this output has other classes of the same ids"
    if fault:
        logger.warning(
            f"warning: {fault}, so shards number the classes in the order of their names; give "
            "each class an id of its own in the column label_id"
        )
    return both


def _check_writing(folder: str, options: files.StorageOptions) -> None:
    """Check that a job can write and delete in a folder, before hours of work are lost there.

    Some storages refuse to delete but report success: S3 names the refusal in the body of a 200.

    Raises:
        SettingError: a file could be written there but not deleted.
        RowError: the folder cannot be written.
    """
    probe = uris.join(folder, PROBE)
    files.write_bytes(probe, b"may be deleted", options)
    try:
        files.delete(probe, options)
        left = files.exists(probe, options)
    except RowError:
        left = True
    if left:
        raise SettingError(
            f"output: {uris.redact(probe)} could be written but not deleted, and a job deletes "
            "files of its own as it goes; grant s3:DeleteObject (or the like) there"
        )


def _clear_output(
    output: str, source: str, options: files.StorageOptions, fence: Callable[[], None]
) -> None:
    refuse_deleting_manifest(output, source, options)
    kept = clearing.clear(output, options, fence)
    if kept:
        logger.info(
            f"note: --overwrite leaves what no earlier job is known to have written: "
            f"{some_of(kept)}; move it away to keep it out of a training set",
        )


def now() -> str:
    """Return the time in UTC, in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
