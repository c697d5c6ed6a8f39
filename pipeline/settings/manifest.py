"""Which pairs of two folders make a manifest."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings.fields import SettingError, setting
from pipeline.settings.validation import check_by_scheme, check_value, refuse_chain


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """Which pairs of two folders of images make a manifest, and where it goes.

    Raises:
        SettingError: on construction, when a value is out of its range or does not fit another.
    """

    content: str = setting(
        "",
        "content images: a folder with all below it, a glob ('s3://b/photos/**/*.jpg'), a file",
        group="input and output",
    )
    style: str = setting("", "style images, in the same forms")
    output: str = setting("", "folder of the manifest: path or URI")
    mode: Literal["cross", "sample"] = setting(
        "sample",
        "every content with every style, or with some that are drawn for it",
        group="which pairs",
    )
    styles_per_content: int | None = setting(
        None, "styles that mode sample draws for a content, no style twice; 1 if not given", low=1
    )
    seed: int = setting(0, "another seed, other draws", low=0, high=2**63 - 1)
    limit: int | None = setting(
        None, "content images at most: a random sample, the same in any order of the files", low=1
    )
    label_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "a content's label: the folder it lies in, or the column label of --labels",
        group="labels and splits",
    )
    split_from: Literal["parent", "csv", "none"] = setting(
        "none",
        "a content's split: the folder above the label's (without labels, the one it lies in), or "
        "the column split of --labels",
    )
    labels: str = setting(
        "",
        "CSV file, path or URI, with a header: file_name (with or without folders), label, split",
    )
    rows_per_file: int = setting(
        100_000,
        "pairs in a file of the manifest",
        low=1,
        high=10_000_000,
        group="storage",
    )
    overwrite: bool = setting(False, "replace the manifest that lies in the output")
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
            raise SettingError("styles_per_content: is for mode sample; cross takes all styles")
        from_csv = "csv" in (self.label_from, self.split_from)
        if from_csv and not self.labels:
            raise SettingError("labels: is missing; give the CSV file that holds them")
        if self.labels and not from_csv:
            raise SettingError("labels: is not used; add --label-from csv or --split-from csv")
