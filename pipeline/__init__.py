"""Neural style transfer over whole image data sets, on Ray.

``stylize`` is for notebooks, ``Stylizer`` for pipelines of one's own on Ray Data,
``StylizeTransform`` and ``StylizedDataset`` for augmentation while a network trains.
``make_manifest`` and ``run_job`` do whole jobs, as the command ``neural-style`` does.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.data.make_manifest.built import BuildError, Built
    from pipeline.engine.job import JobError
    from pipeline.engine.progress import OnProgress
    from pipeline.notebook.call import stylize
    from pipeline.notebook.ray_data import Stylizer
    from pipeline.settings import JobSettings, ManifestSettings, SettingError, StyleSettings
    from pipeline.training.dataset import StylizedDataset
    from pipeline.training.transform import StylizeTransform

__all__ = [
    "BuildError",
    "JobError",
    "JobSettings",
    "ManifestSettings",
    "SettingError",
    "StyleSettings",
    "StylizeTransform",
    "StylizedDataset",
    "Stylizer",
    "make_manifest",
    "run_job",
    "stylize",
]

_MODULES = {
    "BuildError": "data.make_manifest.building",
    "JobError": "engine.job",
    "JobSettings": "settings",
    "ManifestSettings": "settings",
    "SettingError": "settings",
    "StyleSettings": "settings",
    "StylizeTransform": "training.transform",
    "StylizedDataset": "training.dataset",
    "Stylizer": "notebook.ray_data",
    "stylize": "notebook.call",
}
"""Where each name is defined. It is loaded when asked for: most of the package needs no torch."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"pipeline.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_manifest(settings: "ManifestSettings") -> "Built":
    """Pair the images of two folders and write the manifest, as ``neural-style manifest`` does.

    Args:
        settings: the two folders, which pairs, and where the manifest goes.

    Returns:
        The counts: ``pairs``, ``contents``, ``styles``, ``labels`` and so on.

    Raises:
        BuildError: there is nothing to pair, a label cannot be a folder name, or the output is in
            use. The message is one line.
        pipeline.data.errors.RowError: the output cannot be written.
    """
    from pipeline.data.make_manifest.building import build

    return build(settings)


def run_job(
    job: "JobSettings",
    style: "StyleSettings | None" = None,
    on_progress: "OnProgress | None" = None,
) -> dict[str, Any]:
    """Make the pictures of a manifest on Ray, as ``neural-style stylize`` does.

    The same call again does what is missing. A Ray that this process has joined or started is
    used; without one, ``RAY_ADDRESS`` is joined if it is set, else a Ray starts on this machine,
    which listens on loopback unless ``ray`` was imported before, and ends with the job.

    Nothing is printed: the logger ``pipeline`` tells what happens.

    Args:
        job: manifest and output, and how to use the machines.
        style: how pictures are made; the defaults if None.
        on_progress: called with a ``pipeline.engine.progress.Progress``, while pictures are made
            twice a second and from another thread: what the job does, pairs done and failed, rate,
            seconds left.

    Returns:
        The summary that is in ``summary.json``, with ``packed`` (the shards), ``pushed``,
        ``gpu_hours`` and ``report`` (the URI of report.html; None if there is none). A pair that
        fails raises nothing: ``summary["error"]`` counts them, their records say why.

    Raises:
        JobError: settings, manifest, weights or output are wrong, or another run works in the
            output. Nothing was begun, and the message is one line.
        pipeline.engine.job.ClosingError: the pairs are done, but there is no summary.
        pipeline.engine.packing.run.PackingError: the pairs are done, but the shards are not.
        pipeline.engine.packing.hub.PushError: the shards are made, but not uploaded.
        pipeline.data.output.lease.LostError: another run has taken the output over.
        ray.exceptions.RayError: the run broke off; what is recorded stays.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; what is recorded stays.
    """
    if "ray" not in sys.modules and "RAY_ADDRESS" not in os.environ:
        # Ray reads it when it is imported. Without it, Ray listens on all interfaces.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from pipeline.engine import job as engine_job
    from pipeline.engine import progress
    from pipeline.report.page import write_report
    from pipeline.settings import StyleSettings

    told = on_progress or progress.unheard
    summary = engine_job.run_job(style or StyleSettings(), job, told)
    report = None
    if job.report:
        told(progress.Progress(activity=progress.WRITING_REPORT))
        report = write_report(job)
    return {**summary, "report": report}
