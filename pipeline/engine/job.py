"""One job from settings to summary: check everything, plan, run on Ray, add up.

Whatever can be wrong with the settings, the manifest, the weights or the output is found before
Ray starts, and raised as a ``JobError``.
"""

import contextlib
import ctypes
import functools
import gc
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray

from pipeline.data.errors import RowError
from pipeline.data.manifest.manifest import ManifestError
from pipeline.data.output import closing, lease, records
from pipeline.data.storage import files, uris
from pipeline.data.words import counted, some_of
from pipeline.engine import flow, progress
from pipeline.engine.board import Board
from pipeline.engine.checking import check
from pipeline.engine.following import followed
from pipeline.engine.forecast import expected_share
from pipeline.engine.packing import hub
from pipeline.engine.packing.run import run_packing
from pipeline.engine.prepare import PLAN, Prepared, now, prepare
from pipeline.engine.progress import OnProgress, Progress
from pipeline.engine.resources import RAY_DATA_CPUS, Resources, choose_resources
from pipeline.engine.runtime import cluster, watcher
from pipeline.engine.runtime.nodes import (
    check_cpu_actors,
    check_sight,
    node_resources,
    wait_for_room,
)
from pipeline.settings import JobSettings, SettingError, StyleSettings
from pipeline.style.network.weights import WeightsError

logger = logging.getLogger(__name__)

STOP = signal.SIGTERM


class JobError(ValueError):
    """The job cannot start. The message says what is wrong, where, and what to do."""


class ClosingError(RuntimeError):
    """The pairs are done and recorded, but they could not be added up. The message says why."""


@cluster.stopped_by_signals()
def run_job(
    style: StyleSettings, job: JobSettings, on_progress: OnProgress = progress.unheard
) -> dict[str, Any]:
    """Do the whole job and return its summary (also written to ``summary.json``).

    When every pair is recorded, the shards of ``job.format`` are made and, if asked for, uploaded;
    ``packed`` says what ``run_packing`` returns, ``pushed`` what ``hub.push`` does. ``gpu_hours``
    are those of this run's style actors since each was ready; none of these is in the file. A Ray
    that was not running before is ended.

    Args:
        style: how pictures are made.
        job: where to read and write, and how to use the machines.
        on_progress: is told what the job does and, twice a second, how far it is.

    Raises:
        JobError: something is wrong with the settings, manifest, weights or output, or another run
            works in the output.
        ClosingError: everything is done but what is written at the end.
        PackingError: everything is done but the shards.
        PushError: everything is done but the upload of the shards.
        LostError: another run has taken the output over.
        KeyboardInterrupt: stopped by the user; the same command goes on.
    """
    started = time.monotonic()
    ray_was_running = ray.is_initialized()
    try:
        cluster.check_ray()  # before its checkpoint is mended
        on_progress(Progress(activity=progress.LOADING_WEIGHTS))
        checked = check(style, job)
        hub.open_repository(job)
        plan = uris.join(checked.output, PLAN)
        lost = functools.partial(_interrupt, threading.get_ident())
        gpu_hours = 0.0
        on_progress(Progress(activity=progress.CHECKING_MANIFEST))
        with lease.hold(checked.output, checked.options, lost) as ours:
            try:
                watcher.remember(plan=watcher.plan_of(checked.output, plan, checked.options))
                prepared = prepare(checked, ours.check)
                if prepared.pending:
                    gpu_hours = _run_on_ray(job, prepared, on_progress)
                on_progress(Progress(activity=progress.CHECKING_RECORDS))
                summary = _finish(prepared, time.monotonic() - started)
            finally:  # also an earlier run's, which was killed
                if ours.held():  # else it is another run's by now
                    _delete_plan(checked.output, checked.options)
                watcher.forget("plan")
            if not summary["missing"] and not summary["duplicates"]:
                if job.format != "files":
                    on_progress(Progress(activity=progress.PACKING))
                summary["packed"] = run_packing(job, ours.check, on_progress)
                if job.push_to_hub:
                    on_progress(Progress(activity=progress.UPLOADING))
                    summary["pushed"] = hub.push(job)
            return summary | {"gpu_hours": gpu_hours}
    except (
        SettingError,
        ManifestError,
        WeightsError,
        RowError,
        lease.LeaseError,
        cluster.ClusterError,
    ) as error:
        raise JobError(str(error)) from error
    finally:
        if not ray_was_running:
            if ray.is_initialized():
                on_progress(Progress(activity=progress.STOPPING_RAY))
            cluster.stop_ray()


def _interrupt(thread: int) -> None:
    """Raise a KeyboardInterrupt in a thread, also where SIGINT is ignored, as by ``command &``."""
    by_signal = thread == threading.main_thread().ident and callable(signal.getsignal(STOP))
    if by_signal:  # as ``cluster.stop_by_signals`` has it; it ends a wait for the system as well
        signal.pthread_kill(thread, STOP)
    else:
        stop = ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), stop)


def _run_on_ray(job: JobSettings, prepared: Prepared, on_progress: OnProgress) -> float:
    """Do what is pending and return the GPU hours of the style actors."""
    joined = ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))
    starting = progress.JOINING_RAY if joined else progress.STARTING_RAY
    on_progress(Progress(activity=starting, total=prepared.pending))
    cluster.start_ray(job.verbose)
    plan = uris.join(prepared.context.output, PLAN)
    if joined:
        check_sight(plan, prepared.context.storage_options)
    nodes = node_resources()
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    asked = job.gpus_per_actor or 0.0
    if asked > gpus and not joined:
        raise SettingError(f"gpus_per_actor: {asked:g}, but this machine has {gpus:g} GPUs")
    if asked > gpus and job.actors is None:
        raise SettingError(
            "actors: the cluster has no GPU yet, so how many cannot be chosen; give --actors"
        )
    if joined and uris.scheme_of(prepared.context.output) == "file":
        logger.info(
            f"note: {uris.redact(prepared.context.output)} is a path of this machine; every node "
            "of the cluster must see the same directory there",
        )
    resources = choose_resources(
        job, prepared.context.style, prepared.plan.shapes, nodes, prepared.pending
    )
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    if not joined and cpus < (RAY_DATA_CPUS + resources.actors * resources.cpus_per_actor):
        raise SettingError(
            f"cpus_per_actor: {resources.actors} actors with {resources.cpus_per_actor:g} "
            f"CPUs each leave less than {RAY_DATA_CPUS} of this machine's "
            f"{cpus:g} CPUs for Ray Data; ask for less"
        )
    if joined:
        check_cpu_actors(job, resources, nodes)
    _say_resources(resources, job.verbose)
    if joined:
        on_progress(Progress(activity=progress.FINDING_MACHINE, total=prepared.pending))
        wait_for_room(resources)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        name: tensor.numpy() for name, tensor in prepared.weights.items()
    }
    board = Board.create(job.stall_timeout)
    with followed(
        board,
        prepared.pending,
        on_progress,
        actors=resources.actors,
        gpus=resources.gpus_per_actor,
        share=expected_share(prepared.context.style),
    ) as clock:
        flow.run(plan, job, resources, prepared.context, ray.put(arrays), board)
    # Ray Data's plan is a cycle; a node that holds an object of it is never idle.
    gc.collect()
    return clock.hours


def _say_resources(resources: Resources, verbose: bool) -> None:
    where = (
        f"{resources.gpus_per_actor:g} GPU"
        if resources.gpus_per_actor
        else counted(resources.threads, "CPU thread")
    )
    more = (
        f", batches of {resources.batch_size}, a commit every "
        f"{counted(resources.rows_per_file, 'pair')}"
    )
    logger.info(
        f"{counted(resources.actors, 'style actor')} with {where} each{more if verbose else ''}"
    )


@contextlib.contextmanager
def _closing() -> Iterator[None]:
    """Raise what goes wrong in the block as an error of the job's end, not of its start."""
    try:
        yield
    except RowError as error:
        raise ClosingError(
            f"{error}; the pairs are done and what is recorded stays, but there is no summary: the "
            "same command makes it"
        ) from error


@_closing()
def _finish(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """Check that every row has its record, write what is written at the end, add up."""
    output, options = prepared.context.output, prepared.context.storage_options
    prepared.context.fence()
    sums, hashes = closing.close(output, options, prepared.plan.id_hashes)
    run = {
        "pairs": prepared.pending,
        "seconds": seconds,
        "pairs_per_minute": 60 * prepared.pending / seconds,
        "finished_at": now(),
    }
    summary = {
        "manifest_rows": prepared.plan.rows,
        "missing": prepared.plan.rows - prepared.plan.count_done(hashes),
        "duplicates": len(hashes) - len(np.unique(hashes)),
        **sums,
        "last_run": run,
        "last_working_run": run if prepared.pending else _earlier_run(output, options),
    }
    prepared.context.fence()
    records.write_json(uris.join(output, records.SUMMARY), summary, options)
    _warn_of_lost_classes(summary["lost_classes"])
    _warn_of_mixed_splits(summary["images_by_split"])
    return summary


def _earlier_run(output: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """Return the last run that did any pairs, from the summary before; None if it is not known."""
    try:
        summary = json.loads(files.read_bytes(uris.join(output, records.SUMMARY), options))
        run: dict[str, Any] | None = summary.get("last_working_run") or summary["last_run"]
    except (RowError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return run


def _delete_plan(output: str, options: files.StorageOptions) -> None:
    """Delete the plan, which repeats the manifest's URIs: a signed one is a credential.

    If that fails a warning says so. An exception would hide why the run ends.
    """
    plan = uris.join(output, PLAN)
    try:
        files.delete(plan, options)
    except RowError as error:
        logger.warning(
            f"warning: {error}; it holds the manifest's URIs as they are, signatures with them: "
            "delete it",
        )


def _warn_of_lost_classes(lost: list[str]) -> None:
    if lost:
        logger.warning(
            f"warning: no image was made of class {some_of(lost)}: torchvision's "
            "ImageFolder, which numbers the directories it finds, will number later classes "
            "otherwise than in a set that has them; see docs/formats.md",
        )


def _warn_of_mixed_splits(counts: dict[str, int]) -> None:
    without = counts.get("", 0)
    if without and len(counts) > 1:
        logger.warning(
            f"warning: {without} of {sum(counts.values())} images have no split: Hugging Face's "
            "imagefolder passes over them where it finds the folders of splits beside them; give "
            "each row of the manifest a split, or none; see docs/formats.md",
        )
