"""What every stage knows of its job."""

import functools
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.data.manifest import columns
from pipeline.data.output import fences
from pipeline.data.schemas import PLAN_SCHEMA
from pipeline.data.storage import files
from pipeline.settings import StyleSettings, replace

PACKAGE = "neural-style-pipeline"
"""Name of this program's package, and its key among the versions of a job."""


@dataclass(frozen=True)
class Context:
    """What every stage knows of its job. It is small, because it travels with each task.

    Attributes:
        style: the settings of the style, without a pair's overrides.
        output: URI of the output.
        storage_options: options of fsspec's file systems, by scheme.
        max_pixels: most pixels of an image.
        max_bytes: most bytes of an image file.
        file_format: ending of the image files: ``png``, ``jpg`` or ``webp``.
        quality: quality of jpg and webp files, 1 to 100.
        embed_metadata: whether image files say how they were made.
        extra: the manifest's own columns, which are copied into the records.
        weights_name: the weights as the user named them, without credentials.
        weights_digest: SHA-256 of the weights.
        versions: versions of this program and of its libraries, by name.
        fence: called before each write; raises if another job has taken the output over.
        job_id: tells this job from others that Ray's processes serve.
    """

    style: StyleSettings
    output: str
    storage_options: files.StorageOptions
    max_pixels: int
    max_bytes: int
    file_format: str
    quality: int
    embed_metadata: bool
    extra: pa.Schema
    weights_name: str
    weights_digest: str
    versions: dict[str, str | None]
    fence: Callable[[], None] = fences.unfenced
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def schema(self, *more: Any) -> pa.Schema:
        """Return the schema of a block: the plan's columns, the manifest's own ones and ``more``.

        Args:
            more: fields, or pairs of a name and a type.
        """
        return pa.schema([*PLAN_SCHEMA, *columns.as_numbers(self.extra), *more])


def pair_settings(row: dict[str, Any], style: StyleSettings) -> StyleSettings:
    """Return the job's settings with the overrides of a pair's row.

    Raises:
        ValueError: an override is not valid.
    """
    return _overridden(style, row["overrides"])


@functools.lru_cache(256)
def _overridden(style: StyleSettings, overrides: str) -> StyleSettings:
    return replace(style, **json.loads(overrides))
