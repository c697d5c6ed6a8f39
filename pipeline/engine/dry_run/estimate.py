"""A job's dry run: everything that can be known before it, and nothing written in its output.

What a pair costs is measured on a few pairs, with this machine's device and the method itself.
"""

import dataclasses
import functools
import heapq
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset
import torch

from pipeline.data.errors import RowError
from pipeline.data.ids import among, hash_ids
from pipeline.data.make_manifest import sampling
from pipeline.data.manifest.manifest import ManifestError
from pipeline.data.manifest.planning import Plan
from pipeline.data.output import clearing, lease, records, resume
from pipeline.data.words import NAMED
from pipeline.engine import progress
from pipeline.engine.checking import (
    Checked,
    check,
    check_output,
    find_clashes,
    make_context,
    make_plan,
)
from pipeline.engine.dry_run.timing import Calibration, calibrate
from pipeline.engine.forecast import expected_share
from pipeline.engine.job import JobError
from pipeline.engine.progress import OnProgress, Progress
from pipeline.engine.resources import RAY_DATA_CPUS, Resources, choose_resources
from pipeline.engine.runtime import cluster, machine
from pipeline.engine.stages.context import Context
from pipeline.engine.stages.loading import load_images
from pipeline.settings import JobSettings, SettingError, StyleSettings, replace
from pipeline.style.network.weights import WeightsError

SAMPLE = 12
"""Pairs that are loaded, to see how large they are."""

AROUND = 2
"""Evaluations that a pair's targets and its final losses cost."""


@dataclass(frozen=True)
class Work:
    """What the pairs to do ask for, summed over them; sizes in units of image_size squared.

    area: of the results. optimised: area of those that are, without originals. bound: that area
    times the most evaluations. sample: some of the plan's rows.
    faults: rows that will be error records, by class. bad: pair_id and message of the first ones.
    """

    pairs: int
    area: float
    optimised: float
    bound: float
    sample: list[dict[str, Any]]
    faults: Counter[str]
    bad: list[tuple[str, str]]


@dataclass(frozen=True)
class Estimate:
    """A dry run's findings. Hours are those of one device, or of one actor's CPU threads."""

    rows: int
    manifest_rows: int  # more than ``rows`` if the job has a limit
    pending: int
    work: Work
    resources: Resources
    in_use: bool  # a run is under way in the output, or was killed on another machine
    unreadable: Counter[str] = field(default_factory=Counter)  # of the sample, by error class
    unread: list[tuple[str, str]] = field(default_factory=list)  # pair_id, message of some
    sampled: int = 0
    calibration: Calibration | None = None
    share: float = 1.0  # of the most evaluations, that a pair is expected to need
    again: int = 0  # pairs to do that ended as errors in an earlier run

    @property
    def blocks(self) -> int:
        """Units of an actor's work."""
        return math.ceil(self.pending / self.resources.rows_per_block)

    @property
    def batches(self) -> int:
        """At least so many: pairs of different shapes do not share one."""
        return math.ceil(self.pending / self.resources.batch_size)

    def hours(self, share: float = 1.0) -> float:
        """Device hours if each pair takes ``share`` of the most evaluations it may."""
        if self.calibration is None:
            return 0.0
        evaluations = share * self.work.bound + AROUND * self.work.optimised
        return evaluations * self.calibration.shape * self.calibration.seconds / 3600

    @property
    def output_bytes(self) -> float:
        """Bytes of all images; records are small compared with them."""
        if self.calibration is None:
            return 0.0
        return self.work.area * self.calibration.shape * self.calibration.bytes


@cluster.stopped_by_signals()  # the plan holds the manifest's URIs, signed ones as well
def dry_run(
    style: StyleSettings, job: JobSettings, on_progress: OnProgress = progress.unheard
) -> Estimate:
    """Check all that ``run_job`` checks before it starts Ray, and estimate what it will cost.

    Not checked: whether the output can be written.

    Args:
        style: how pictures would be made.
        job: where the job would read and write.
        on_progress: is told what the dry run does.

    Raises:
        JobError: the job could not start.
        KeyboardInterrupt: stopped by the user, or by a signal.
    """
    try:
        on_progress(Progress(activity=progress.LOADING_WEIGHTS))
        checked = check(style, job)
        on_progress(Progress(activity=progress.CHECKING_MANIFEST))
        context = make_context(checked, check_output(checked))
        with tempfile.TemporaryDirectory() as folder:
            plan = make_plan(checked, folder)
            done = _done(checked, folder)
            work = _measure_work(Path(folder), style, done)
        on_progress(Progress(activity=progress.TRYING_PAIRS))
        pending = plan.rows - plan.count_done(done)
        again = _failed(checked, plan) if job.retry_errors else 0
        return _estimate(checked, context, plan, pending, work, again)
    except (SettingError, ManifestError, WeightsError, RowError) as error:
        raise JobError(str(error)) from error


def _done(checked: Checked, plan: str) -> npt.NDArray[np.int64]:
    """Return the hashes of the pairs that are done.

    Raises:
        SettingError: the job would be refused for what is recorded.
    """
    if checked.job.overwrite or clearing.is_begun(checked.output, checked.options):
        return np.empty(0, dtype=np.int64)
    clashes, again = find_clashes(checked, plan), checked.job.retry_errors
    done = resume.done_hashes(checked.output, checked.options, retry_errors=again, clashes=clashes)
    clashes.refuse(checked.output)
    return done


def _failed(checked: Checked, plan: Plan) -> int:
    """Return how many pairs of the plan ended as errors."""
    rows = records.iterate(checked.output, checked.options, ["pair_id"], status="error")
    return plan.count_done(np.unique(hash_ids(row["pair_id"] for row in rows)))


def _measure_work(plan: Path, style: StyleSettings, done: npt.NDArray[np.int64]) -> Work:
    """One pass over the plan, a batch of it in memory."""
    faults: Counter[str] = Counter()
    pairs, area, optimised, bound = 0, 0.0, 0.0, 0.0
    sample: list[tuple[bool, int, int, dict[str, Any]]] = []
    bad: list[tuple[int, str, str]] = []

    @functools.lru_cache(maxsize=4096)
    def asked(overrides: str) -> tuple[int, float]:
        settings = replace(style, **json.loads(overrides))
        return settings.iterations, settings.image_size**2 / 1e6

    for row in _rows(plan, done):
        if row["fault_class"] is not None:
            faults[row["fault_class"]] += 1
            bad.append((row["manifest_row"], row["pair_id"], row["fault_message"]))
            bad = heapq.nsmallest(NAMED, bad)  # the plan is in another order
            continue
        iterations, size = asked(row["overrides"])
        pairs, area = pairs + 1, area + size
        if row["style_uri"]:  # else an original, which is copied
            optimised, bound = optimised + size, bound + size * iterations
        # The smallest hashes: a random sample that is the same each time. Originals come last.
        key = -sampling.hash_key(row["pair_id"])
        heapq.heappush(sample, (bool(row["style_uri"]), key, row["manifest_row"], row))
        if len(sample) > SAMPLE:
            heapq.heappop(sample)
    chosen = [row for *_, row in sorted(sample, reverse=True)]
    named = [(name, why) for _, name, why in bad]
    return Work(pairs, area, optimised, bound, chosen, faults, named)


def _rows(plan: Path, done: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    known = np.sort(done)
    for batch in pyarrow.dataset.dataset(plan, format="parquet").to_batches():
        rows = batch.to_pylist()
        finished = among(hash_ids(row["pair_id"] for row in rows), known)
        yield from (row for row, over in zip(rows, finished, strict=True) if not over)


def _estimate(
    checked: Checked, context: Context, plan: Plan, pending: int, work: Work, again: int
) -> Estimate:
    job, style = checked.job, checked.style
    node = {
        "CPU": max(RAY_DATA_CPUS, os.cpu_count() or 1),
        "GPU": torch.cuda.device_count(),
        # Ray sets 30% aside for its object store.
        "memory": 0.7 * machine.memory(),
    }
    resources = choose_resources(job, style, plan.shapes, [node], max(1, pending))
    in_use = lease.holder(checked.output, checked.options) is not None
    unreadable: Counter[str] = Counter()
    unread: list[tuple[str, str]] = []
    loaded = []
    for row in work.sample:
        try:
            loaded.append({**row, **load_images(row, context)})
        except RowError as error:
            unreadable[error.error_class] += 1
            unread.append((row["pair_id"], f"manifest row {row['manifest_row']}: {error}"))
    here = resources
    if resources.gpus_per_actor and not torch.cuda.is_available():  # they are on other machines
        threads = torch.get_num_threads()
        here = dataclasses.replace(resources, gpus_per_actor=0.0, batch_size=1, threads=threads)
    calibration = calibrate(checked, loaded, here) if loaded else None
    return Estimate(
        rows=plan.rows,
        manifest_rows=checked.manifest.rows,
        pending=pending,
        work=work,
        resources=resources,
        in_use=in_use,
        unreadable=unreadable,
        unread=unread[:NAMED],
        sampled=len(work.sample),
        calibration=calibration,
        share=_expected_share(checked),
        again=again,
    )


def _expected_share(checked: Checked) -> float:
    """Return the share of the most evaluations that pairs take.

    From the output's records if they stay, else from experience.
    """
    likely = expected_share(checked.style)
    if not checked.style.tolerance or checked.job.overwrite:
        return likely
    rows = records.iterate(checked.output, checked.options, ["evaluations"], status="ok")
    taken = (row["evaluations"] for row in rows if row["evaluations"] is not None)
    counts = np.fromiter(taken, dtype=np.float64)
    if not len(counts):
        return likely
    return float(min(1.0, counts.mean() / checked.style.iterations))
