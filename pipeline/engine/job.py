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
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
import torchvision

from pipeline.data import manifest as manifests
from pipeline.data import records, retry, storage
from pipeline.data.errors import RowError
from pipeline.engine import flow
from pipeline.engine.progress import progress
from pipeline.engine.stages import Context
from pipeline.settings import JobSettings, SettingError, StyleSettings, fingerprint
from pipeline.style.vgg import StateDict
from pipeline.style.weights import WeightsError, load_weights

PLAN, JOB, SUMMARY = "__plan__", "job.json", "summary.json"


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
    except (SettingError, manifests.ManifestError, WeightsError, RowError) as error:
        raise JobError(str(error)) from error
    output, options = prepared.context.output, prepared.context.storage_options
    print(
        f"{prepared.plan.rows} pairs in the manifest, {prepared.pending} to do, "
        f"weights {prepared.context.weights_name} ({prepared.context.weights_digest[:12]})",
        file=sys.stderr,
    )
    if prepared.pending:
        _run_on_ray(job, prepared)
    # What the checkpoint knows ends here; from now on the records speak.
    records.write_image_metadata(output, options)
    seconds = time.monotonic() - started
    summary = {
        "manifest_rows": prepared.plan.rows,
        **records.summarize(output, options),
        "last_run": {
            "pairs": prepared.pending,
            "seconds": seconds,
            "pairs_per_minute": 60 * prepared.pending / seconds,
            "finished_at": _now(),
        },
    }
    records.write_json(storage.join(output, SUMMARY), summary, options)
    return summary


def prepare(style: StyleSettings, job: JobSettings) -> Prepared:
    """Check all that can be checked without Ray, write the plan and ``job.json``.

    Raises:
        SettingError, ManifestError, WeightsError, RowError: see ``run_job``.
    """
    options = job.storage_options or {}
    output, source = storage.absolute(job.output), storage.absolute(job.manifest)
    manifest = manifests.open_manifest(source, options)
    weights, digest = load_weights(style, lambda uri: _read_weights(uri, options))
    mark = fingerprint(style, digest)
    if job.overwrite:
        clear_output(output, options)
    described = _describe(style, digest, mark)
    _refuse_other_settings(output, options, described)
    retry.finish_forgetting(output, options)
    if job.retry_errors:
        count = retry.forget_errors(output, options)
        print(f"{count} failed pairs will be done again", file=sys.stderr)
    allowed = frozenset({storage.scheme_of(source), *storage.OBJECT_STORES, *job.allow_schemes})
    plan = manifests.write_plan(
        manifest,
        storage.join(output, PLAN),
        options,
        base=source if _is_directory(source, options) else os.path.dirname(source),
        settings=style,
        fingerprint=mark,
        allowed=allowed,
        limit=job.limit,
    )
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
    return Prepared(
        context,
        plan,
        plan.rows - plan.count_done(records.checkpointed_ids(output, options)),
        weights,
    )


def _read_weights(uri: str, options: storage.StorageOptions) -> bytes:
    try:
        return storage.read_bytes(uri, options)
    except RowError as error:
        raise OSError(str(error)) from error


def clear_output(output: str, options: storage.StorageOptions) -> None:
    """Delete what an earlier run wrote, and nothing else."""
    for name in (records.IMAGES, records.RECORDS, records.CHECKPOINT, PLAN):
        storage.delete(storage.join(output, name), options)
    for name in (JOB, SUMMARY, retry.JOURNAL):
        storage.delete(storage.join(output, name), options)


def _run_on_ray(job: JobSettings, prepared: Prepared) -> None:
    started_here = start_ray(job.verbose)
    try:
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        resources = flow.choose_resources(
            job, have.get("CPU", 1.0), have.get("GPU", 0.0), prepared.pending
        )
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

    Returns whether Ray was started here. It binds to loopback and lives as long as this process.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    level = logging.INFO if verbose else logging.ERROR
    if not verbose:  # what Ray's core writes to standard error is not for those who run jobs
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=verbose, logging_level=level)
        return True
    ray.init(
        address="local",
        # Two at least: on one, the checkpoint filter and an actor would wait for each other.
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        log_to_driver=verbose,
        logging_level=level,
    )
    return True


def _describe(style: StyleSettings, digest: str, mark: str) -> dict[str, Any]:
    settings = dataclasses.asdict(style) | {"weights": storage.redact(style.weights)}
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


def _refuse_other_settings(
    output: str, options: storage.StorageOptions, described: dict[str, Any]
) -> None:
    """An output holds the pictures of one set of settings.

    Raises:
        SettingError: names the first setting that differs, with both values.
    """
    uri = storage.join(output, JOB)
    if not storage.exists(uri, options):
        return
    earlier = json.loads(storage.read_bytes(uri, options))
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


def _is_directory(uri: str, options: storage.StorageOptions) -> bool:
    fs, path = storage.filesystem(uri, options)
    return bool(fs.isdir(path))


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
