"""Settings of a manifest: which pairs of two folders it lists."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings.fields import SettingError, setting
from pipeline.settings.validation import check_by_scheme, check_value, refuse_chain


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """Which pairs of two folders of images go into a manifest, and where it is written.

    Raises:
        SettingError: on construction, if a value is out of range or does not fit another one.
    """

    content: str = setting(
        "",
        "content images: a folder (including subfolders), a glob ('s3://b/photos/**/*.jpg') or a "
        "file",
        group="input and output",
    )
    style: str = setting("", "style images: a folder, a glob or a file")
    output: str = setting("", "folder for the manifest: path or URI")
    mode: Literal["cross", "sample"] = setting(
        "sample",
        "cross: each content image with every style; sample: with styles drawn at random",
        group="which pairs",
    )
    styles_per_content: int | None = setting(
        None, "different styles drawn per content image in mode sample. Default: 1", low=1
    )
    seed: int = setting(0, "seed of the random draws", low=0, high=2**63 - 1)
    limit: int | None = setting(
        None,
        "use at most this many content images: a random sample, whatever the file order",
        low=1,
    )
    label_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "label of a content image: its folder, or the column label of --labels",
        group="labels and splits",
    )
    split_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "split of a content image: the folder above the label's (its own folder if labels are not "
        "from folders), or the column split of --labels",
    )
    labels: str = setting(
        "",
        "CSV file (path or URI) with the columns file_name (with or without folders), label, split",
    )
    rows_per_file: int = setting(
        100_000,
        "pairs per file of the manifest",
        low=1,
        high=10_000_000,
        group="storage",
    )
    overwrite: bool = setting(False, "replace an earlier manifest in the output")
    storage_options: Mapping[str, Any] | None = setting(
        None, 'fsspec options by scheme, as JSON: {"s3": {"endpoint_url": "..."}}'
    )

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            check_value(spec, getattr(self, spec.name))
        for name in ("content", "style", "output"):
            if not getattr(self, name):
                raise SettingError(f"{name}: is missing; give a path or a URI")
        refuse_chain("output", self.output)
        check_by_scheme(self.storage_options)
        if self.mode == "cross" and self.styles_per_content is not None:
            raise SettingError("styles_per_content: only for mode sample; cross uses all styles")
        from_csv = "csv" in (self.label_from, self.split_from)
        if from_csv and not self.labels:
            raise SettingError("labels: is missing; give the CSV file that holds them")
        if self.labels and not from_csv:
            raise SettingError("labels: is not used; add --label-from csv or --split-from csv")
