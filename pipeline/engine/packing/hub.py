"""Uploading a format's folder to a data set repository of the Hugging Face Hub.

``huggingface_hub`` is not among the requirements of this program. A shard that the repository has
already, by its SHA-256, is not uploaded again.
"""

import hashlib
import importlib.util
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.manifest.features import CARD
from pipeline.data.output import packing
from pipeline.data.storage import failures, files, uris
from pipeline.data.words import counted, printable
from pipeline.settings import JobSettings, SettingError

logger = logging.getLogger(__name__)

PACKAGE = "huggingface_hub"

MARK = ".neural-style.json"
"""File of the repository that lists the shards of the last upload."""

OPTIONS = ("endpoint", "token")
"""Storage options of the scheme ``hf`` that count here too."""


class PushError(RuntimeError):
    """The shards could not be uploaded. The message says why; the shards themselves are whole."""


def check_installed(job: JobSettings) -> None:
    """Refuse a job that is to upload its shards where that cannot be done.

    Raises:
        SettingError: ``huggingface_hub`` is not installed.
    """
    if job.push_to_hub and importlib.util.find_spec(PACKAGE) is None:
        raise SettingError(
            f"push_to_hub: needs a package that is not installed: pip install {PACKAGE}"
        )


def open_repository(job: JobSettings) -> None:
    """Check that the repository can be written, and create it, private, if there is none.

    Raises:
        SettingError: it cannot be reached or written, or holds the data of others.
    """
    if not job.push_to_hub:
        return
    api = _api(job)
    try:
        api.create_repo(job.push_to_hub, repo_type="dataset", private=True, exist_ok=True)
        api.auth_check(job.push_to_hub, repo_type="dataset", write=True)
        there = _files_there(api, job.push_to_hub)
    except TypeError as error:
        raise SettingError(
            f"push_to_hub: this {PACKAGE} is too old: pip install --upgrade {PACKAGE}"
        ) from error
    except Exception as error:  # the library and what it is made of raise many types
        raise SettingError(
            f"push_to_hub: the data set {job.push_to_hub} cannot be written "
            f"({failures.reason(error)}); log in with hf auth login or set HF_TOKEN, with a token "
            "that may write there"
        ) from error
    shards = [
        name for form in packing.SHARD_NAMES.values() for name in there if form.fullmatch(name)
    ]
    if shards and MARK not in there:
        raise SettingError(
            f"push_to_hub: the data set {job.push_to_hub} holds {printable(shards[0])}, which this "
            "program did not upload; choose another repository"
        )


def push(job: JobSettings) -> dict[str, Any]:
    """Upload the shards of ``job.format`` and what belongs to them, in one commit.

    Shards of an earlier upload are deleted there in the same commit. A card that the repository
    has already stays.

    Returns:
        The ``repository`` and how many files were ``uploaded``, were ``there`` and were
        ``deleted``.

    Raises:
        PushError: the shards cannot be read, or the Hub does not take them.
    """
    try:
        return _push(job, _api(job))
    except Exception as error:  # the library and what it is made of raise many types
        why = str(error) if isinstance(error, RowError) else failures.reason(error)
        raise PushError(
            f"push_to_hub: {job.push_to_hub}: {why}; the shards are complete in the output, and "
            "the same command uploads what is missing"
        ) from error


def _api(job: JobSettings) -> Any:
    from huggingface_hub import HfApi

    given = (job.storage_options or {}).get("hf", {})
    # YAML's block texts end with a line end, which a header must not hold.
    stripped: dict[str, Any] = {
        name: value.strip() if isinstance(value, str) else value
        for name, value in given.items()
        if name in OPTIONS
    }
    return HfApi(**stripped)


def _files_there(api: Any, repository: str) -> dict[str, str]:
    """Return the files of a repository: SHA-256 of large ones, of small ones Git's own digest."""
    return {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in api.list_repo_tree(repository, repo_type="dataset", recursive=True)
        if hasattr(entry, "blob_id")  # else a folder
    }


def _uploaded_before(api: Any, repository: str) -> set[str]:
    """Return the files that the last upload listed."""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(repository, MARK, repo_type="dataset", cache_dir=folder)
        return {*json.loads(Path(path).read_bytes())}


def _git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _push(job: JobSettings, api: Any) -> dict[str, Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    options = job.storage_options or {}
    folder = uris.join(uris.absolute(job.output), job.format)
    index = packing.read_index(folder, options)
    if index is None or index.digest is None:
        raise RowError("read_failed", f"{uris.redact(folder)}: holds no finished shards")
    repository: dict[str, Any] = {"repo_id": job.push_to_hub, "repo_type": "dataset"}
    there = _files_there(api, job.push_to_hub)
    mine = {name: {sha256} for name, (_, sha256) in index.files().items()}
    if packing.CLASSES in mine:  # small files are known there by what Git calls them
        mine[packing.CLASSES].add(_git_id(packing.classes_file(index.classes)))
    missing = [name for name, digests in mine.items() if there.get(name) not in digests]
    if CARD not in there and files.exists(uris.join(folder, CARD), options):
        missing.append(CARD)
    before = _uploaded_before(api, job.push_to_hub) if MARK in there else set()
    stale = sorted(before & there.keys() - mine.keys())
    changes: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    logger.info(f"uploading {counted(len(missing), 'file')} to {job.push_to_hub}")
    for name in missing:
        data = files.read_bytes(uris.join(folder, name), options)
        change = CommitOperationAdd(path_in_repo=name, path_or_fileobj=data)
        api.preupload_lfs_files(additions=[change], **repository)  # lets go of the bytes
        changes.append(change)
    if changes:
        listed = json.dumps(sorted(mine), indent=2).encode()
        changes.append(CommitOperationAdd(path_in_repo=MARK, path_or_fileobj=listed))
        message = f"{counted(len(missing), 'file')} of neural-style-pipeline"
        api.create_commit(operations=changes, commit_message=message, **repository)
    return {
        "repository": uris.redact(f"{api.endpoint}/datasets/{job.push_to_hub}"),
        "uploaded": len(missing),
        "there": len(mine) - sum(name in mine for name in missing),
        "deleted": len(stale),
    }
