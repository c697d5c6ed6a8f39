"""Settings of a job: where it reads and writes, and how it uses machines."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.redaction import SCHEME
from pipeline.settings.fields import SettingError, in_short, setting
from pipeline.settings.validation import check_by_scheme, check_value, refuse_chain, refuse_patterns

REPOSITORY: Final = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", re.ASCII)
"""Name of a repository of the Hugging Face Hub."""


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Where a job reads and writes, and how it uses machines.

    Raises:
        SettingError: on construction, if a value is out of range or does not fit another one.
    """

    manifest: str = setting(
        "",
        "Parquet file or folder, or CSV, TSV or JSON lines file, that lists the pairs: path or URI",
        group="input and output",
    )
    manifest_format: Literal["auto", "parquet", "csv", "tsv", "jsonl"] = setting(
        "auto",
        "form of the manifest; auto: by its ending (.csv, .tsv, .jsonl, .ndjson), else Parquet",
    )
    output: str = setting("", "folder for the results: path or URI")
    limit: int | None = setting(None, "process only the first pairs of the manifest", low=1)
    retry_errors: bool = setting(False, "redo the pairs that failed in an earlier job")
    overwrite: bool = setting(
        False, "delete what earlier jobs wrote in this output, nothing else, and start from scratch"
    )

    actors: int | None = setting(
        None,
        "highest number of style actors. Work begins with the first one; Ray's autoscaler is asked "
        "for all. Default: one per GPU, or without GPUs as many as CPUs and memory allow",
        low=1,
        high=10_000,
        group="machines and batches",
    )
    gpus_per_actor: float | None = setting(
        None, "GPUs per actor, may be a fraction. Default: 1 if Ray has GPUs, else 0", low=0, high=1
    )
    cpus_per_actor: float | None = setting(
        None,
        "CPUs that Ray reserves per actor; leave two CPUs of the cluster free. Default: chosen "
        "automatically",
        low=0,
        high=1024,
    )
    batch_size: int | None = setting(
        None,
        "highest number of pairs optimised together. Default: 1 on a CPU; on a GPU 8 at 512 px and "
        "32 at 256 px, with compact 16 and 64",
        low=1,
        high=1024,
        unit="pairs",
    )
    rows_per_block: int | None = setting(
        None,
        "pairs per block, an actor's unit of work. A block is recorded as a whole (small ones "
        "several at a time); a killed job may redo three blocks per actor and those that waited to "
        "be recorded. Default: 4 batches, more in long jobs, less in short ones",
        low=1,
        high=100_000,
        unit="pairs",
    )
    memory: Literal["normal", "low"] = setting(
        "normal", "low: keep fewer activations and recompute the others, for very large images"
    )
    style_cache: int = setting(
        64, "style targets that each actor keeps in memory", low=1, high=100_000
    )
    stall_timeout: float = setting(
        1800.0,
        "a process that spends this long on one pair or shard without progress is restarted, at "
        "most three times; waiting for nodes does not count. 0: never",
        low=0,
        high=1_000_000,
        unit="s",
    )

    image_format: Literal["png", "jpg", "webp"] = setting(
        "png", "file format of the images", group="image files and shards"
    )
    quality: int = setting(95, "compression quality of jpg and webp", low=1, high=100)
    embed_metadata: bool = setting(
        False,
        "write into each image how it was made (inputs, settings, losses, weights): as text in "
        "png, as EXIF in jpg and webp",
    )
    format: Literal["files", "webdataset", "parquet"] = setting(
        "files",
        "shards for training, made when all pairs are done: none (files), tar shards in "
        "webdataset/, or Parquet shards in parquet/",
    )
    shard_size: float = setting(
        256.0,
        "approximate image bytes of a shard; each packing task holds one shard in memory",
        low=0.01,
        high=4096,
        unit="MB",
    )
    push_to_hub: str = setting(
        "",
        "data set repository of the Hugging Face Hub (OWNER/NAME) to which the shards are uploaded "
        "when all pairs are done; needs huggingface_hub. A new one is private",
    )
    max_pixels: int = setting(
        100_000_000,
        "images with more pixels are refused",
        low=1024,
        high=2**31,
        unit="px",
        group="limits and access",
    )
    max_bytes: int = setting(
        2**28, "larger image files are refused", low=1024, high=2**34, unit="bytes"
    )
    allow_schemes: tuple[str, ...] = setting(
        (),
        "URI schemes that rows may use in addition to the manifest's own and those of object "
        "stores, for example https,file",
    )
    storage_options: Mapping[str, Any] | None = setting(
        None, 'fsspec options by scheme, as JSON: {"s3": {"endpoint_url": "..."}}'
    )
    report: bool = setting(True, "write report.html when the job ends", group="report and messages")
    title: str | None = setting(None, "heading of report.html. Default: the output folder's name")
    thumbnails: int = setting(
        1000,
        "highest number of pairs whose pictures are in report.html",
        low=0,
        high=100_000,
        unit="pairs",
    )
    verbose: bool = setting(False, "show Ray's log")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_value(spec, getattr(self, spec.name))
        for name in ("manifest", "output"):
            if not getattr(self, name):
                raise SettingError(f"{name}: is missing; give a path or a URI")
            refuse_chain(name, getattr(self, name))
        refuse_patterns(self.output)
        for scheme in self.allow_schemes:
            if not SCHEME.fullmatch(scheme):
                raise SettingError(
                    f"allow_schemes: {in_short(scheme)} is no scheme; give names, as https,file"
                )
        check_by_scheme(self.storage_options)
        if self.push_to_hub and not REPOSITORY.fullmatch(self.push_to_hub):
            raise SettingError(
                f"push_to_hub: {in_short(self.push_to_hub)} is no repository; give OWNER/NAME"
            )
        if self.push_to_hub and self.format == "files":
            raise SettingError("push_to_hub: uploads shards; add --format parquet or webdataset")
        if self.retry_errors and self.overwrite:
            raise SettingError("retry_errors and overwrite exclude each other: choose one")
