"""One job from settings to summary: check everything, plan, run on Ray, add up.

Whatever can be wrong with the settings, the manifest, the weights or the output is found before
Ray starts, and raised as a ``JobError``.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import logging
import os
import platform
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
import torchvision

from pipeline.data import manifest as manifests
from pipeline.data import records, resume, storage
from pipeline.data.errors import RowError
from pipeline.data.rows import RowChecker
from pipeline.engine import flow
from pipeline.engine.progress import progress
from pipeline.engine.stages import Context
from pipeline.settings import JobSettings, SettingError, StyleSettings, fingerprint
from pipeline.style.vgg import StateDict
from pipeline.style.weights import WeightsError, load_weights

PLAN, JOB, SUMMARY = "__plan__", "job.json", "summary.json"
RESULTS = (records.IMAGES, records.RECORDS, records.CHECKPOINT)


class JobError(ValueError):
    """The job cannot start. The message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Prepared:
    """A job that may start."""

    context: Context
    plan: manifests.Plan
    pending: int
    weights: StateDict


def run_job(style: StyleSettings, job: JobSettings) -> dict[str, Any]:
    """Do the whole job and return its summary (also written to ``summary.json``).

    Raises:
        JobError: something is wrong with the settings, manifest, weights or output.
        KeyboardInterrupt: stopped by the user; the same command goes on.
    """
    started = time.monotonic()
    try:
        prepared = prepare(style, job)
        if prepared.pending:
            _run_on_ray(job, prepared)
        return _finish(prepared, time.monotonic() - started)
    except (SettingError, manifests.ManifestError, WeightsError, RowError) as error:
        raise JobError(str(error)) from error


def prepare(style: StyleSettings, job: JobSettings) -> Prepared:
    """Check all that can be checked without Ray, write the plan and ``job.json``.

    Raises:
        SettingError, ManifestError, WeightsError, RowError: see ``run_job``.
    """
    options = job.storage_options or {}
    output, source = storage.absolute(job.output), storage.absolute(job.manifest)
    manifest = manifests.open_manifest(source, options)
    weights, digest = load_weights(
        style, lambda uri: _read_weights(uri, options), storage.redact(style.weights)
    )
    mark = fingerprint(style, digest, job.format, job.quality)
    described = _describe(style, job, digest, mark)
    earlier = _earlier_job(output, options)
    if earlier and not job.overwrite:
        _refuse_other_settings(output, earlier, described)
    if job.overwrite and not earlier:
        for name in RESULTS:
            if storage.exists(storage.join(output, name), options):
                raise SettingError(
                    f"overwrite: {storage.redact(output)} holds {name}/ but no job.json of an "
                    "earlier job, so nothing there is deleted; choose another output"
                )
    plan = manifests.write_plan(
        manifest,
        storage.join(output, PLAN),
        options,
        checker=RowChecker(
            manifests.base_of(source, options),
            style,
            mark,
            frozenset({storage.scheme_of(source), *storage.OBJECT_STORES, *job.allow_schemes}),
        ),
        limit=job.limit,
    )
    if job.overwrite:
        clear_output(output, source, options)
    resume.repair(output, options)
    if job.retry_errors:
        count = resume.forget_errors(output, options)
        print(f"{count} failed pairs will be done again", file=sys.stderr)
    described |= {"manifest": storage.redact(source), "manifest_digest": plan.digest}
    described |= {"rows": plan.rows, "started_at": _now()}
    records.write_json(storage.join(output, JOB), described, options)
    context = Context(
        style=style,
        output=output,
        storage_options=options,
        max_pixels=job.max_pixels,
        file_format=job.format,
        quality=job.quality,
        extra=manifest.extra,
        weights_name=storage.redact(style.weights),
        weights_digest=digest,
        versions=json.dumps(described["versions"]),
    )
    pending = plan.rows - plan.count_done(resume.checkpointed_ids(output, options))
    print(
        f"{plan.rows} pairs in the manifest, {pending} to do, "
        f"weights {context.weights_name} ({digest[:12]})",
        file=sys.stderr,
    )
    return Prepared(context, plan, pending, weights)


def clear_output(output: str, source: str, options: storage.StorageOptions) -> None:
    """Delete what an earlier run wrote, and nothing else.

    Raises:
        SettingError: the manifest ``source`` lies in what would be deleted.
    """
    folders = [storage.join(output, name) for name in RESULTS]
    for folder in folders:
        if f"{source}/".startswith(f"{folder}/"):
            raise SettingError(f"overwrite: the manifest lies in {storage.redact(folder)}")
    for folder in folders:
        storage.delete(folder, options)
    for name in (JOB, SUMMARY, resume.JOURNAL):
        storage.delete(storage.join(output, name), options)


def _finish(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """Check that every row has its record, write what is written at the end, add up."""
    output, options = prepared.context.output, prepared.context.storage_options
    records.write_image_metadata(output, options)
    ids = list(records.record_ids(output, options))
    summary = {
        "manifest_rows": prepared.plan.rows,
        "missing": prepared.plan.rows - prepared.plan.count_done(ids),
        "duplicates": len(ids) - len(set(ids)),
        **records.summarize(output, options),
        "last_run": {
            "pairs": prepared.pending,
            "seconds": seconds,
            "pairs_per_minute": 60 * prepared.pending / seconds,
            "finished_at": _now(),
        },
    }
    records.write_json(storage.join(output, SUMMARY), summary, options)
    # The plan repeats the manifest's URIs, and a signed one is a credential.
    storage.delete(storage.join(output, PLAN), options)
    return summary


def _read_weights(uri: str, options: storage.StorageOptions) -> bytes:
    try:
        return storage.read_bytes(uri, options)
    except RowError as error:
        raise OSError(str(error)) from error


def _run_on_ray(job: JobSettings, prepared: Prepared) -> None:
    joined = bool(os.environ.get("RAY_ADDRESS"))
    started_here = start_ray(job.verbose)
    try:
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = have.get("GPU", 0.0)
        asked = job.gpus_per_actor or 0.0
        if asked > gpus and not joined:
            raise SettingError(f"gpus_per_actor: {asked:g}, but this machine has {gpus:g} GPUs")
        if asked > gpus and job.actors is None:
            raise SettingError(
                "actors: the cluster has no GPU yet, so their number cannot be chosen; give "
                "--actors MIN:MAX"
            )
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        node_cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
        resources = flow.choose_resources(job, node_cpus, gpus, prepared.pending)
        low, high = resources.actors
        where = (
            f"{resources.gpus_per_actor:g} GPU"
            if resources.gpus_per_actor
            else f"{resources.threads} CPU threads"
        )
        print(
            f"{low} to {high} style actors with {where} each, batches of "
            f"{resources.batch_size}, a commit every {resources.rows_per_block} pairs",
            file=sys.stderr,
        )
        arrays: dict[str, np.ndarray[Any, Any]] = {
            name: tensor.numpy() for name, tensor in prepared.weights.items()
        }
        plan = storage.join(prepared.context.output, PLAN)
        with progress(prepared.pending) as handle:
            flow.run(plan, job, resources, prepared.context, ray.put(arrays), handle)
    finally:
        if started_here:
            ray.shutdown()


def start_ray(verbose: bool) -> bool:
    """Join the cluster of RAY_ADDRESS (``ray job submit`` sets it), else start Ray here.

    Returns whether Ray was started or joined here. A Ray started here binds to loopback and lives
    as long as this process. SIGTERM (``ray job stop``) becomes a KeyboardInterrupt.

    Raises:
        JobError: the cluster cannot be reached.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:  # what Ray's core writes to standard error is not for those who run jobs
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(log_to_driver=verbose, logging_level=level)
        else:
            ray.init(
                address="local",
                num_cpus=max(flow.RAY_DATA_CPUS, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=verbose,
                logging_level=level,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise JobError(
            f"Ray at {address or 'this machine'} cannot be reached ({storage.reason(error)}); "
            "RAY_ADDRESS is for ray job submit and for drivers on the cluster, unset it to run here"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ray.init has set its own
    return True


def _describe(style: StyleSettings, job: JobSettings, digest: str, mark: str) -> dict[str, Any]:
    settings = dataclasses.asdict(style) | {"weights": storage.redact(style.weights)}
    settings |= {"format": job.format, "quality": job.quality}
    versions = {
        "neural-style-pipeline": _own_version(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    return {
        "fingerprint": mark,
        "weights_digest": digest,
        "settings": settings,
        "versions": versions,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version("neural-style-pipeline")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, as ray job submit does
        return "source"


def _earlier_job(output: str, options: storage.StorageOptions) -> dict[str, Any] | None:
    """The ``job.json`` of an earlier run in this output.

    Raises:
        SettingError: there is one, but it is none of ours.
    """
    uri = storage.join(output, JOB)
    if not storage.exists(uri, options):
        return None
    try:
        earlier: dict[str, Any] = json.loads(storage.read_bytes(uri, options))
        earlier["settings"]["image_size"], earlier["fingerprint"], earlier["weights_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"output: {storage.redact(uri)} was not written by this program; choose another output"
        ) from error
    return earlier


def _refuse_other_settings(output: str, earlier: dict[str, Any], described: dict[str, Any]) -> None:
    """An output holds the pictures of one set of settings.

    Raises:
        SettingError: names the first setting that differs, with both values.
    """
    if earlier["fingerprint"] == described["fingerprint"]:
        return
    before = earlier["settings"] | {"weights_digest": earlier["weights_digest"]}
    now = json.loads(json.dumps(described["settings"]))
    now |= {"weights_digest": described["weights_digest"]}
    changed = [name for name in now if before.get(name) != now[name]]
    name = next((name for name in changed if name != "weights"), "settings")
    raise SettingError(
        f"output {storage.redact(output)}: an earlier run had {name} = {before.get(name)!r}, this "
        f"one has {now.get(name)!r}; choose another output, the earlier value, or --overwrite"
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
