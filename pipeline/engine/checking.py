"""Check the settings, the manifest, the weights and the output of a job. Nothing is written there.

A dry run does no more than this. ``prepare`` then writes.
"""

import logging
from dataclasses import dataclass
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.images import codec
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import packing, records
from pipeline.data.output.clashes import Clashes
from pipeline.data.storage import failures, files, local, uris
from pipeline.data.words import counted, printable
from pipeline.engine import job_file
from pipeline.engine.packing import hub
from pipeline.engine.stages.context import Context
from pipeline.settings import JobSettings, SettingError, StyleSettings, fingerprint
from pipeline.style.network.vgg import StateDict
from pipeline.style.network.weights import load_weights

logger = logging.getLogger(__name__)

RESULTS = (records.IMAGES, records.RECORDS, records.CHECKPOINT)
"""Folders of an output in which a job's results are. Shards have their own."""


@dataclass(frozen=True)
class Checked:
    """A job whose settings, manifest and weights are sound. Nothing has been written yet.

    Attributes:
        style: settings of the style.
        job: settings of the job.
        output: absolute URI of the output.
        source: absolute URI of the manifest.
        manifest: the manifest, opened.
        weights: the normalised weights.
        weights_digest: SHA-256 of the weights.
        fingerprint: digest of all settings that change pixels.
    """

    style: StyleSettings
    job: JobSettings
    output: str
    source: str
    manifest: manifests.Manifest
    weights: StateDict
    weights_digest: str
    fingerprint: str

    @property
    def options(self) -> files.StorageOptions:
        """Storage options, by scheme."""
        return self.job.storage_options or {}


def check(style: StyleSettings, job: JobSettings) -> Checked:
    """Read the manifest's schema and the weights.

    Raises:
        ManifestError: the manifest cannot be read.
        WeightsError: the weights cannot be read, or do not fit.
        SettingError: the output is a file, or is in the manifest's folder; or a package for
            ``push_to_hub`` is missing.
    """
    hub.check_installed(job)
    options = job.storage_options or {}
    output, source = uris.absolute(job.output), uris.absolute(job.manifest)
    if local.is_file(output):
        raise SettingError(f"output {uris.redact(output)}: is a file; give a folder")
    if f"{output}/".startswith(f"{source}/"):  # the next job would read the records as pairs
        raise SettingError(
            f"output: {uris.redact(output)} is in the manifest's folder "
            f"{uris.redact(source)}, whose files are all read as pairs; choose one beside it"
        )
    manifest = manifests.open_manifest(source, options, job.manifest_format)
    weights, digest = load_weights(style, files.reader(options), uris.redact(style.weights))
    if style.init_image == "content" and "seed" in manifest.schema.names:
        logger.info(
            f"note: the seeds in {manifest.shown} have no effect, because no picture starts from "
            "noise: pairs that differ only in the seed give equal pictures; --init-image noise "
            "uses them",
        )
    files_as = job.image_format, job.quality, job.embed_metadata
    own = fingerprint(style, digest, *files_as, codec.READING)
    return Checked(style, job, output, source, manifest, weights, digest, own)


def check_output(checked: Checked) -> dict[str, Any]:
    """Check that this job may work in its output, and return what its ``job.json`` will say.

    Raises:
        SettingError: the output holds something else, or the pictures of other settings.
    """
    job, output = checked.job, checked.output
    described = job_file.describe(checked.style, job, checked.weights_digest, checked.fingerprint)
    earlier = _read_earlier_job(output, checked.options)
    if earlier and not job.overwrite:
        job_file.refuse_other_settings(output, earlier, described)
    if job.overwrite:
        refuse_deleting_manifest(output, checked.source, checked.options)
    if not earlier:
        _refuse_unknown_results(output, job.overwrite, checked.options)
    if job.format != "files":
        packing.refuse_foreign(output, job.format, checked.options)
    return described


def _read_earlier_job(output: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """Return the content of the output's ``job.json``; None if there is none.

    Raises:
        SettingError: this program did not write it; or the output cannot be reached.
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
    return job_file.parse(files.read_bytes(uri, options), uri)


def refuse_deleting_manifest(output: str, source: str, options: files.StorageOptions) -> None:
    """Refuse to overwrite an output if the manifest would be deleted with it.

    Raises:
        SettingError: the manifest is in a folder of the output that is deleted.
    """
    shards = [form for form in packing.FORMATS if packing.own_index(output, form, options)]
    for name in (*RESULTS, *shards):
        folder = uris.join(output, name)
        if f"{source}/".startswith(f"{folder}/"):
            raise SettingError(f"overwrite: the manifest lies in {uris.redact(folder)}")


def _refuse_unknown_results(output: str, overwrite: bool, options: files.StorageOptions) -> None:
    """Refuse records without a ``job.json``. A job writes that before its first record.

    Raises:
        SettingError: there are records; or images that would be deleted with them.
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


def make_plan(checked: Checked, target: str) -> planning.Plan:
    """Check every row of the manifest and write the plan into the directory ``target``.

    Raises:
        ManifestError: the manifest has no rows, or two rows have one name.
    """
    source, options, job = checked.source, checked.options, checked.job
    checker = RowChecker(
        manifests.base_of(source, options),
        checked.fingerprint,
        frozenset({uris.scheme_of(source), *uris.OBJECT_STORES, *job.allow_schemes}),
    )
    plan = planning.write_plan(checked.manifest, target, options, checker=checker, limit=job.limit)
    _warn_of_split_words(*plan.split_words)
    return plan


def _warn_of_split_words(count: int, first: str) -> None:
    if count:
        logger.warning(
            f"warning: {counted(count, 'image')} will have a word in the class or name that "
            f"Hugging Face's imagefolder, given data_dir, takes for a split ({printable(first)}): "
            "load them with data_files, as docs/formats.md shows, or name them otherwise",
        )


def find_clashes(checked: Checked, plan: str) -> Clashes:
    """Return the ``Clashes`` to which the output's records are shown.

    Args:
        checked: the job.
        plan: directory into which ``make_plan`` wrote.
    """
    base = manifests.base_of(checked.source, checked.options)
    return Clashes(plan, checked.options, checked.style, base)


def make_context(checked: Checked, described: dict[str, Any]) -> Context:
    """Return what every stage must know of a job.

    Args:
        checked: the job.
        described: what ``check_output`` returned.
    """
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
        weights_digest=checked.weights_digest,
        versions=described["versions"],
    )
