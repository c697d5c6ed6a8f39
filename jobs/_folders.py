"""Two folders in place of a manifest: a job makes it itself, inside its output."""

import _thread
import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from jobs._cli import FOLDERS
from jobs._parser import command
from pipeline.data.storage import uris
from pipeline.data.words import counted
from pipeline.redaction import redact
from pipeline.settings import JobSettings, ManifestSettings, SettingError, replace

logger = logging.getLogger("pipeline.jobs")

MANIFEST = "manifest"
"""Folder of the manifest in the output."""


def settle(
    job_values: Mapping[str, Any], folder_values: Mapping[str, Any]
) -> tuple[JobSettings, ManifestSettings | None]:
    """Return a job's settings, and those of the manifest that it is to make first, if it is.

    Args:
        job_values: fields of ``JobSettings`` that were given.
        folder_values: those of ``FOLDERS``.

    Raises:
        SettingError: neither a manifest nor two folders were given, or both, or half of it.
    """
    given = [name for name in FOLDERS if folder_values.get(name)]
    if not {"content", "style"} & set(given):
        if given:
            raise SettingError(
                f"{given[0]}: needs --content and --style; for a manifest of its own it is an "
                f"option of {command('make_manifest')}"
            )
        if not job_values.get("manifest"):
            raise SettingError(
                "manifest: is missing; give --manifest, a table of pairs, or --content and "
                "--style, two folders of images"
            )
        return JobSettings(**job_values), None
    if job_values.get("manifest"):
        raise SettingError(
            f"{given[0]} and manifest exclude each other: leave out --manifest to pair the images "
            "of --content and --style, or leave these out to take the manifest's pairs"
        )
    for name, other in (("content", "style"), ("style", "content")):
        if name not in given:
            raise SettingError(f"{name}: is missing; give a folder of images, as with --{other}")
    job = JobSettings(**{**job_values, "manifest": "-"})
    _refuse_output_among_images(job.output, folder_values)
    settings = ManifestSettings(
        **folder_values,
        output=uris.join(uris.absolute(job.output), MANIFEST),
        overwrite=True,  # of the manifest: folders may have changed
        storage_options=job.storage_options,
    )
    # Rows may always use these: whoever gave the folders chose them.
    own = (uris.scheme_of(settings.content), uris.scheme_of(settings.style))
    schemes = tuple(dict.fromkeys((*job.allow_schemes, *own)))
    return replace(job, manifest=settings.output, allow_schemes=schemes), settings


def _refuse_output_among_images(output: str, folder_values: Mapping[str, Any]) -> None:
    """Refuse an output inside the inputs: the next run would take its own pictures for new ones.

    Raises:
        SettingError: the output is in one of the folders.
    """
    for name in ("content", "style"):
        folder = uris.absolute(folder_values[name])
        whole = re.split(r"[*?[]", folder, maxsplit=1)[0] if "**" in folder else folder
        if f"{uris.absolute(output)}/".startswith(f"{whole.rstrip('/')}/"):
            raise SettingError(
                f"output: {redact(output)} is in the {name} folder {redact(folder)}, all of whose "
                "images are taken; choose one outside it"
            )


@contextlib.contextmanager
def made(
    settings: ManifestSettings | None, job: JobSettings, *, dry: bool = False
) -> Iterator[JobSettings]:
    """Make the manifest, if there is one to make, and yield the job that takes it.

    A pair's id and the styles drawn for a content depend on names alone, so the same folders give
    the same pairs, and new images are new pairs.

    Args:
        settings: from ``settle``.
        job: from ``settle``.
        dry: write nothing in the output.

    Raises:
        BuildError, RowError, LeaseError: no manifest can be made, or another run works in the
            output.
    """
    if settings is None:
        yield job
        return
    from pipeline.data.make_manifest.building import build
    from pipeline.data.make_manifest.built import describe
    from pipeline.data.output import lease

    with contextlib.ExitStack() as stack:
        if dry:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            settings = replace(settings, output=uris.join(folder, MANIFEST))
            built = build(settings)
        else:
            output, options = uris.absolute(job.output), job.storage_options or {}
            with lease.hold(output, options, _thread.interrupt_main):
                built = build(settings)
        where = "" if dry else f": {redact(settings.output)}"
        skipped = f"; skipped: {describe(built.skipped)}" if built.skipped else ""
        logger.info(
            f"{counted(built.pairs, 'pair')} of {counted(built.contents, 'content image')} and "
            f"{counted(built.styles, 'style')}{where}{skipped}"
        )
        yield replace(job, manifest=settings.output)
