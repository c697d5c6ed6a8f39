"""The ``job.json`` of an output: describe a job, read an earlier job's, and compare the two."""

import dataclasses
import importlib.metadata
import json
import platform
from typing import Any

import ray
import torch

from pipeline.data.output import records
from pipeline.data.schemas import SCHEMA_VERSION
from pipeline.data.storage import uris
from pipeline.engine.stages.context import PACKAGE
from pipeline.settings import JobSettings, SettingError, StyleSettings, canonical


def describe(
    style: StyleSettings, job: JobSettings, weights_digest: str, fingerprint: str
) -> dict[str, Any]:
    """Return what ``job.json`` says of a job: settings, versions, fingerprint."""
    settings = dataclasses.asdict(style) | {"weights": uris.redact(style.weights)}
    for name in ("image_format", "quality", "embed_metadata"):
        settings[name] = getattr(job, name)
    versions = {
        PACKAGE: _own_version(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": str(torch.__version__),  # else tasks that unpickle it would import torch
        "torchvision": importlib.metadata.version("torchvision"),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "weights_digest": weights_digest,
        "settings": settings,
        "versions": versions,
    }


def _own_version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout, as ray job submit does
        return "source"


def parse(data: bytes, uri: str) -> dict[str, Any]:
    """Return the content of a ``job.json``.

    Args:
        data: bytes of the file.
        uri: its URI, for messages.

    Raises:
        SettingError: this program did not write the file.
        LaterVersionError: a later version of this program wrote it.
    """
    try:
        described: dict[str, Any] = json.loads(data)
        described["settings"]["image_size"], described["fingerprint"], described["weights_digest"]
        records.refuse_later_version(described, uris.redact(uri.rpartition("/")[0]))
    except records.LaterVersionError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"output: {uris.redact(uri)} was not written by this program; choose another output"
        ) from error
    return described


def style_of(settings: dict[str, Any]) -> StyleSettings:
    """Return the style settings of a ``job.json``. Settings that it lacks have their defaults.

    Raises:
        SettingError: a value is out of this version's range.
        TypeError: a value has another type than in this version.
    """
    names = {spec.name for spec in dataclasses.fields(StyleSettings)}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
        if name in names
    }
    return StyleSettings(**chosen)


def refuse_other_settings(output: str, earlier: dict[str, Any], described: dict[str, Any]) -> None:
    """Refuse an output that holds pictures of other settings.

    Args:
        output: URI of the output.
        earlier: content of its ``job.json``.
        described: this job, as ``describe`` returns it.

    Raises:
        SettingError: the fingerprints differ. The message names every setting that differs, with
            both values.
    """
    if earlier["fingerprint"] == described["fingerprint"]:
        return
    shown = uris.redact(output)
    unshared = sorted(earlier["settings"].keys() ^ described["settings"].keys())
    unshared_names = f"settings that only one of the two has: {', '.join(unshared)}"
    more = f" (and {unshared_names})" if unshared else ""
    try:
        before, asked = _fingerprinted(earlier), _fingerprinted(described)
    except (SettingError, TypeError, KeyError):  # another version wrote it
        before, asked = earlier["settings"], json.loads(json.dumps(described["settings"]))
    differ = [name for name in asked if name not in unshared and before[name] != asked[name]]
    if differ:
        values = "; ".join(
            f"{name} = {before[name]!r}, this one has {asked[name]!r}" for name in differ
        )
        plural = "s" if len(differ) > 1 else ""
        raise SettingError(
            f"output {shown}: an earlier job had {values}{more}; choose another output, the "
            f"earlier value{plural}, or --overwrite"
        )
    versions = [_version_of(job) for job in (earlier, described)]
    if versions[0] != versions[1]:
        raise SettingError(
            f"output {shown}: an earlier job ran with another version of this program "
            f"({versions[0]}, this is {versions[1]}), whose pictures differ{more}; choose another "
            "output, that version, or --overwrite"
        )
    reason = unshared_names if unshared else "its fingerprint differs"
    raise SettingError(
        f"output {shown}: an earlier job does not match this one ({reason}), though its version "
        "and values are the same; another checkout of this program wrote its job.json, or the "
        "file was changed: choose another output, or --overwrite"
    )


def _fingerprinted(described: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a ``job.json`` that its fingerprint is made of, by name.

    Raises:
        SettingError, TypeError: another version wrote it.
    """
    values = {**described["settings"], "weights_digest": described["weights_digest"]}
    style = canonical(style_of(values))
    del values["weights"], values["weights_seed"]  # the digest tells more
    return values | style


def _version_of(described: dict[str, Any]) -> str:
    versions = described.get("versions")
    return str(versions.get(PACKAGE)) if isinstance(versions, dict) else "unknown"
