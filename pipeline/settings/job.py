"""Where a job reads and writes, and how it uses the machines."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings.fields import SettingError, setting
from pipeline.settings.validation import check_by_scheme, check_value, refuse_chain, refuse_patterns


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """Where a job reads and writes, and how it uses the machines.

    Raises:
        SettingError: on construction, when a value is out of its range.
    """

    manifest: str = setting(
        "", "Parquet file or directory of pairs: path or URI", group="input and output"
    )
    output: str = setting("", "directory of the results: path or URI")
    limit: int | None = setting(None, "take only the first pairs of the manifest", low=1)
    retry_errors: bool = setting(False, "do the rows again that ended as errors in an earlier run")
    overwrite: bool = setting(
        False, "delete what earlier runs wrote in this output, and nothing else, and start afresh"
    )

    actors: int | None = setting(
        None,
        "most style actors; work begins with the first, Ray's autoscaler is asked for all of them; "
        "one for each GPU, else for each CPU that has memory for it, if not given",
        low=1,
        high=10_000,
        group="machines and batches",
    )
    gpus_per_actor: float | None = setting(
        None, "GPUs of an actor, fractions allowed; 1 where Ray has GPUs, else 0", low=0, high=1
    )
    cpus_per_actor: float | None = setting(
        None,
        "CPUs that Ray reserves for an actor; chosen if not given. Leave two of the cluster free",
        low=0,
        high=1024,
    )
    batch_size: int | None = setting(
        None,
        "most pairs optimised together; 8 on a GPU, 1 on a CPU if not given",
        low=1,
        high=1024,
        unit="pairs",
    )
    rows_per_block: int | None = setting(
        None,
        "pairs of a block, an actor's unit of work, which are recorded together; a killed job may "
        "redo three blocks of each actor, and what waited to be recorded; if not given 4 batches, "
        "more in a long job, less in a short one; of large images several small blocks together",
        low=1,
        high=100_000,
        unit="pairs",
    )
    memory: Literal["normal", "low"] = setting(
        "normal", "low: keep fewer activations and compute them again, for very large images"
    )
    style_cache: int = setting(64, "style targets that an actor keeps", low=1, high=100_000)
    stall_timeout: float = setting(
        1800.0,
        "longest time without progress: a process that loads, evaluates or stores one pair, or "
        "packs one shard, for so long is ended and begins again, three times at most; waiting for "
        "nodes does not count; 0: never",
        low=0,
        high=1_000_000,
        unit="s",
    )

    image_format: Literal["png", "jpg", "webp"] = setting(
        "png", "file format of the images", group="image files and shards"
    )
    quality: int = setting(95, "quality of jpg and webp", low=1, high=100)
    embed_metadata: bool = setting(
        False,
        "write into each image how it was made (inputs, settings, losses, weights): PNG text, or "
        "EXIF of jpg and webp",
    )
    format: Literal["files", "webdataset", "parquet"] = setting(
        "files",
        "what is made for training once all pairs are done: the image files alone, or beside them "
        "tar shards in webdataset/, or Parquet shards in parquet/",
    )
    shard_size: float = setting(
        256.0,
        "image bytes of a shard, about; each packing task holds a shard in memory",
        low=0.01,
        high=4096,
        unit="MB",
    )
    max_pixels: int = setting(
        100_000_000,
        "largest image that is decoded",
        low=1024,
        high=2**31,
        unit="px",
        group="what may be read, and how",
    )
    max_bytes: int = setting(
        2**28, "largest image file that is read", low=1024, high=2**34, unit="bytes"
    )
    allow_schemes: tuple[str, ...] = setting(
        (),
        "URI schemes that rows may use beside the manifest's own and the object stores', "
        "for example https,file",
    )
    storage_options: Mapping[str, Any] | None = setting(
        None, 'fsspec options by scheme, as JSON: {"s3": {"endpoint_url": "..."}}'
    )
    report: bool = setting(True, "write report.html at the end", group="report and messages")
    thumbnails: int = setting(
        1000,
        "most pairs whose pictures report.html holds",
        low=0,
        high=100_000,
        unit="pairs",
    )
    verbose: bool = setting(False, "show Ray's own log")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_value(spec, getattr(self, spec.name))
        for name in ("manifest", "output"):
            if not getattr(self, name):
                raise SettingError(f"{name}: is missing; give a path or a URI")
            refuse_chain(name, getattr(self, name))
        refuse_patterns(self.output)
        check_by_scheme(self.storage_options)
        if self.retry_errors and self.overwrite:
            raise SettingError("retry_errors and overwrite exclude each other: choose one")
