"""Everything before Ray: check the settings, the manifest, the weights and the output; plan."""

import dataclasses
import datetime
import importlib.metadata
import json
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch

from pipeline.data.errors import RowError
from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import clearing, lease, packing, records, resume
from pipeline.data.output.clashes import Clashes
from pipeline.data.schemas import SCHEMA_VERSION
from pipeline.data.storage import failures, files, local, uris
from pipeline.data.words import counted, printable, some_of, taken
from pipeline.engine.stages import Context
from pipeline.settings import JobSettings, SettingError, StyleSettings, canonical, fingerprint
from pipeline.style.network.vgg import StateDict
from pipeline.style.network.weights import load_weights

logger = logging.getLogger(__name__)

PACKAGE = "neural-style-pipeline"
PLAN = "__plan__"
PROBE = f".probe{local.LEFTOVER}"
"""Written and deleted at the start. Its ending has the next run delete what a kill left of it."""

RESULTS = (records.IMAGES, records.RECORDS, records.CHECKPOINT)


@dataclass(frozen=True)
class Prepared:
    """A job that may start."""

    context: Context
    plan: planning.Plan
    pending: int
    weights: StateDict


@dataclass(frozen=True)
class Checked:
    """What was asked for, read and found sound. Nothing has been written yet."""

    style: StyleSettings
    job: JobSettings
    output: str
    source: str
    manifest: manifests.Manifest
    weights: StateDict
    digest: str
    mark: str

    @property
    def options(self) -> files.StorageOptions:
        """Of all storages."""
        return self.job.storage_options or {}


def check(style: StyleSettings, job: JobSettings) -> Checked:
    """Read the manifest's schema and the weights.

    Raises:
        ManifestError, WeightsError: what is wrong with them.
        SettingError: the output is a file, or lies in the manifest.
    """
    options = job.storage_options or {}
    output, source = uris.absolute(job.output), uris.absolute(job.manifest)
    if local.is_file(output):
        raise SettingError(f"output {uris.redact(output)}: is a file; give a folder")
    if f"{output}/".startswith(f"{source}/"):  # the next run would read the records as pairs
        raise SettingError(
            f"output: {uris.redact(output)} is in the manifest's folder "
            f"{uris.redact(source)}, whose files are all read as pairs; choose one beside it"
        )
    manifest = manifests.open_manifest(source, options, job.manifest_format)
    weights, digest = load_weights(
        style, lambda uri: _read_weights(uri, options), uris.redact(style.weights)
    )
    if style.init_image == "content" and "seed" in manifest.schema.names:
        logger.info(
            f"note: the seeds of {manifest.shown} change nothing, as no picture begins with noise: "
            "rows that differ in them alone give equal pictures; --init-image noise uses them",
        )
    mark = fingerprint(style, digest, job.image_format, job.quality, job.embed_metadata)
    return Checked(style, job, output, source, manifest, weights, digest, mark)


def prepare(checked: Checked, fence: Callable[[], None] = lease.unfenced) -> Prepared:
    """Check the output, mend it, write the plan and ``job.json``. The lease must be held.

    What is recorded is compared with the plan before failed pairs are made undone, so that a job
    that is refused has taken nothing away.

    Args:
        fence: ``Lease.check``.

    Raises:
        SettingError, ManifestError, RowError: see ``run_job``.
    """
    job, options, output = checked.job, checked.options, checked.output
    described = check_output(checked)
    shards = () if job.format == "files" else (job.format,)
    for folder in (output, *(uris.join(output, name) for name in (*RESULTS, *shards))):
        _check_writing(folder, options)
    for form in packing.FORMATS:  # where another job was killed between the two
        files.delete(uris.join(output, form, PROBE), options)
    fence()
    plan = make_plan(checked, uris.join(output, PLAN))
    fence()
    if job.overwrite or clearing.is_begun(output, options):
        _clear_output(output, checked.source, options)
    clashes = find_clashes(checked, uris.join(output, PLAN))
    resume.repair(output, options, clashes)
    clashes.refuse(output)
    fence()
    if job.retry_errors:
        count = resume.forget_errors(output, options, plan.id_hashes)
        logger.info(f"{counted(count, 'failed pair')} will be done again")
    described |= {"manifest": uris.redact(checked.source), "manifest_digest": plan.digest}
    described |= {"rows": plan.rows, "started_at": now()}
    records.write_json(uris.join(output, records.JOB), described, options)
    context = dataclasses.replace(make_context(checked, described), fence=fence)
    pending = plan.rows - plan.count_done(hash_ids(resume.checkpointed_ids(output, options)))
    logger.info(
        f"{taken(plan.rows, checked.manifest.rows)}, {pending} to do, "
        f"weights {context.weights_name} ({checked.digest[:12]})",
    )
    return Prepared(context, plan, pending, checked.weights)


def _warn_of_split_words(count: int, first: str) -> None:
    if count:
        logger.warning(
            f"warning: {counted(count, 'image')} will have a word in the class or name that "
            f"Hugging Face's imagefolder, given data_dir, takes for a split ({printable(first)}): "
            "load them with data_files, as docs/formats.md shows, or name them otherwise",
        )


def check_output(checked: Checked) -> dict[str, Any]:
    """What ``job.json`` is to say, if this job may work in its output. Writes nothing.

    Raises:
        SettingError: the output holds something else, or the pictures of other settings.
    """
    job, output = checked.job, checked.output
    described = _describe(checked.style, job, checked.digest, checked.mark)
    earlier = _earlier_job(output, checked.options)
    if earlier and not job.overwrite:
        _refuse_other_settings(output, earlier, described)
    if job.overwrite:
        _refuse_deleting_manifest(output, checked.source, checked.options)
    if not earlier:
        _refuse_unknown_results(output, job.overwrite, checked.options)
    if job.format != "files":
        packing.refuse_foreign(output, job.format, checked.options)
    return described


def make_plan(checked: Checked, target: str) -> planning.Plan:
    """Check every row of the manifest and write the plan below the directory ``target``.

    Raises:
        ManifestError: it has no rows, or two of one name.
    """
    source, options, job = checked.source, checked.options, checked.job
    checker = RowChecker(
        manifests.base_of(source, options),
        checked.mark,
        frozenset({uris.scheme_of(source), *uris.OBJECT_STORES, *job.allow_schemes}),
    )
    plan = planning.write_plan(checked.manifest, target, options, checker=checker, limit=job.limit)
    _warn_of_split_words(*plan.split_words)
    return plan


def find_clashes(checked: Checked, plan: str) -> Clashes:
    """What is to be shown the output's records; ``plan`` is where ``make_plan`` put it."""
    base = manifests.base_of(checked.source, checked.options)
    return Clashes(plan, checked.options, checked.style, base)


def make_context(checked: Checked, described: dict[str, Any]) -> Context:
    """What every stage must know of a checked job; ``described`` by ``check_output``."""
    job = checked.job
    return Context(
        style=checked.style,
        output=checked.output,
        storage_options=checked.options,
        max_pixels=job.max_pixels,
        max_bytes=job.max_bytes,
        file_format=job.image_format,
        quality=job.quality,
        embed_metadata=job.embed_metadata,
        extra=checked.manifest.extra,
        weights_name=uris.redact(checked.style.weights),
        weights_digest=checked.digest,
        versions=json.dumps(described["versions"]),
    )


def _check_writing(folder: str, options: files.StorageOptions) -> None:
    """See that a job can write and delete in a folder, before hours of work are lost there.

    Some storages refuse to delete and say so where nobody looks: S3 in the body of a 200.

    Raises:
        SettingError: what is written there cannot be deleted.
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
            "its own marks as it goes; grant s3:DeleteObject (or the like) there"
        )


def _clear_output(output: str, source: str, options: files.StorageOptions) -> None:
    _refuse_deleting_manifest(output, source, options)
    kept = clearing.clear(output, options)
    if kept:
        logger.info(
            f"note: --overwrite leaves what no earlier job is known to have written: "
            f"{some_of(kept)}; move it away if it is to be in no training set",
        )


def _refuse_deleting_manifest(output: str, source: str, options: files.StorageOptions) -> None:
    shards = [form for form in packing.FORMATS if packing.own_index(output, form, options)]
    for name in (*RESULTS, *shards):
        folder = uris.join(output, name)
        if f"{source}/".startswith(f"{folder}/"):
            raise SettingError(f"overwrite: the manifest lies in {uris.redact(folder)}")


def _read_weights(uri: str, options: files.StorageOptions) -> bytes:
    try:
        return files.read_bytes(uri, options)
    except RowError as error:
        raise OSError(str(error)) from error


def _describe(style: StyleSettings, job: JobSettings, digest: str, mark: str) -> dict[str, Any]:
    settings = dataclasses.asdict(style) | {"weights": uris.redact(style.weights)}
    for name in ("image_format", "quality", "embed_metadata"):
        settings[name] = getattr(job, name)
    versions = {
        PACKAGE: _own_version(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": mark,
        "weights_digest": digest,
        "settings": settings,
        "versions": versions,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, as ray job submit does
        return "source"


def _earlier_job(output: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """The ``job.json`` of an earlier run in this output.

    Raises:
        SettingError: there is one, but it is none of ours; or the output cannot be reached.
    """
    uri = uris.join(output, records.JOB)
    try:
        if not files.exists(uri, options):
            return None
    except RowError as error:
        reason = failures.reason_at(output, error.__cause__ or error)
        raise SettingError(
            f"output {uris.redact(output)}: cannot be reached ({reason}); check the URI, the "
            "endpoint and the credentials"
        ) from error
    try:
        earlier: dict[str, Any] = json.loads(files.read_bytes(uri, options))
        earlier["settings"]["image_size"], earlier["fingerprint"], earlier["weights_digest"]
        records.refuse_later_version(earlier, uris.redact(output))
    except records.LaterVersionError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"output: {uris.redact(uri)} was not written by this program; choose another output"
        ) from error
    return earlier


def _refuse_other_settings(output: str, earlier: dict[str, Any], described: dict[str, Any]) -> None:
    """An output holds the pictures of one set of settings.

    Raises:
        SettingError: names every setting that differs, with both values.
    """
    if earlier["fingerprint"] == described["fingerprint"]:
        return
    shown = uris.redact(output)
    others = sorted(earlier["settings"].keys() ^ described["settings"].keys())
    try:
        before, asked = _what_counts(earlier), _what_counts(described)
    except (SettingError, TypeError, KeyError):  # of another version
        before, asked = earlier["settings"], json.loads(json.dumps(described["settings"]))
    differ = [name for name in asked if name not in others and before[name] != asked[name]]
    if differ:
        values = "; ".join(
            f"{name} = {before[name]!r}, this one has {asked[name]!r}" for name in differ
        )
        more = f" (and it had not the same settings: {', '.join(others)})" if others else ""
        plural = "s" if len(differ) > 1 else ""
        raise SettingError(
            f"output {shown}: an earlier run had {values}{more}; choose another output, the "
            f"earlier value{plural}, or --overwrite"
        )
    versions = [_version_of(job) for job in (earlier, described)]
    if versions[0] != versions[1]:
        raise SettingError(
            f"output {shown}: an earlier run was of another version of this program "
            f"({versions[0]}, this is {versions[1]}), whose pictures are others"
            + (f" (it had not the same settings: {', '.join(others)})" if others else "")
            + "; choose another output, that version, or --overwrite"
        )
    reason = f"had not the same settings: {', '.join(others)}" if others else "has another mark"
    raise SettingError(
        f"output {shown}: an earlier run {reason}, though its version and values are the same; it "
        "was of another checkout of this program, or its job.json was changed: choose another "
        "output, or --overwrite"
    )


def _what_counts(described: dict[str, Any]) -> dict[str, Any]:
    """What the fingerprint of a ``job.json`` stands for, by name, in one form.

    Raises:
        SettingError, TypeError: it is of another version.
    """
    values = {**described["settings"], "weights_digest": described["weights_digest"]}
    style = canonical(style_of(values))
    del values["weights"], values["weights_seed"]  # the digest tells more
    return values | style


def style_of(settings: dict[str, Any]) -> StyleSettings:
    """The style among a ``job.json``'s settings; what it lacks has its default.

    Raises:
        SettingError, TypeError: they are not this version's.
    """
    names = {spec.name for spec in dataclasses.fields(StyleSettings)}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in names
    }
    return StyleSettings(**chosen)


def _version_of(described: dict[str, Any]) -> str:
    versions = described.get("versions")
    return str(versions.get(PACKAGE)) if isinstance(versions, dict) else "unknown"


def _refuse_unknown_results(output: str, overwrite: bool, options: files.StorageOptions) -> None:
    """Without a ``job.json`` records are nobody's: a job writes it before its first record.

    Raises:
        SettingError: there are some; or images that would be deleted with them.
    """
    for name in RESULTS if overwrite else (records.RECORDS, records.CHECKPOINT):
        if not files.list_files(uris.join(output, name), options):
            continue
        shown = uris.redact(output)
        if overwrite:
            raise SettingError(
                f"overwrite: {shown} holds {name}/ but no job.json of an earlier job, so nothing "
                "there is deleted; choose another output"
            )
        raise SettingError(
            f"output {shown}: holds {name}/ but no job.json of an earlier job, so they are not "
            "taken for its results; choose another output, or put the job.json back"
        )


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
