"""Settings of a manifest: which pairs of contents and styles it lists."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.settings.fields import SettingError, setting
from pipeline.settings.validation import check_by_scheme, check_value, refuse_chain


@dataclass(frozen=True, kw_only=True)
class ManifestSettings:
    """Which pairs of contents and styles go into a manifest, and where it is written.

    Raises:
        SettingError: on construction, if a value is out of range or does not fit another one.
    """

    content: str = setting(
        "",
        "content images: a folder (including subfolders), a glob ('s3://b/photos/**/*.jpg'), a "
        "file, or a data set: Parquet files with pictures, tars ('s3://b/train-{000..099}.tar'), "
        "or a CSV, TSV or JSON lines file that lists images",
        group="input and output",
    )
    style: str = setting("", "style images, in the same forms")
    output: str = setting("", "folder for the manifest: path or URI")
    content_format: Literal["auto", "images", "hugging-face", "parquet", "tar", "csv"] = setting(
        "auto",
        "what --content is; hugging-face is parquet that must hold the features of datasets; csv "
        "is also TSV and JSON lines",
        group="data sets",
    )
    image_column: str = setting(
        "",
        "column of the pictures (tar: ending of their members). Default: the only one, or image",
    )
    label_column: str = setting(
        "",
        "column of the classes (tar: a member's ending, or a field of the json member). Default: "
        "the only ClassLabel, or label; tar: cls, or label in json",
    )
    key_column: str = setting(
        "",
        "column with a name of each picture, on which draws and pair_ids then depend; not for "
        "tar. Default: the file's name and the row's number",
    )
    class_names: str = setting(
        "",
        "file with the names of the classes in the order of their ids: one in each line, or JSON. "
        "Default: the data set's own (tar: classes.txt beside the tars)",
    )
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
    classes: tuple[str, ...] = setting((), "take the content images of these classes only")
    per_class: int | None = setting(
        None,
        "take at most this many content images of each class in each split, drawn at random",
        low=1,
    )
    style_weights: str = setting(
        "",
        "how often styles are drawn: JSON ('{\"night.png\": 3}'), or a JSON or CSV file with the "
        "columns file_name and weight. Styles that are not named have 1; 0: never",
    )
    style_per_class: bool = setting(
        False,
        "draw the styles of a content image from the folder STYLE/LABEL named after its label",
    )
    style_probability: float = setting(
        1.0,
        "share of the content images that get styles; the others stay as they are",
        above=0,
        high=1,
    )
    include_originals: bool = setting(
        False,
        "add a row without style (column original) for each content image that stays as it is; if "
        "all get styles, for every content image",
    )
    label_from: Literal["auto", "parent", "csv", "none"] = setting(
        "auto",
        "where labels come from. auto: the data set's own, none for folders of images; parent: the "
        "image's folder; csv: the column label of --labels; none: no labels",
        group="labels and splits",
    )
    split_from: Literal["auto", "parent", "csv", "none"] = setting(
        "auto",
        "where splits come from. auto: the data set's own (column split, or the files' names), "
        "none for folders of images; parent: the folder above the label's (the image's own folder "
        "if labels are not from folders); csv: the column split of --labels; none: no splits",
    )
    val_fraction: float = setting(
        0.0,
        "share of the training split, or of what has no split, that becomes the split val",
        low=0,
        high=0.999,
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
        self._check_columns()
        if self.mode == "cross" and self.style_weights:
            raise SettingError("style_weights: only for mode sample; cross uses all styles")
        if self.mode == "cross" and self.styles_per_content is not None:
            raise SettingError("styles_per_content: only for mode sample; cross uses all styles")
        from_csv = "csv" in (self.label_from, self.split_from)
        if from_csv and not self.labels:
            raise SettingError("labels: is missing; give the CSV file that holds them")
        if self.labels and not from_csv:
            raise SettingError("labels: is not used; add --label-from csv or --split-from csv")

    def _check_columns(self) -> None:
        columns = ("image_column", "label_column", "key_column")
        for name in (name for name in columns if getattr(self, name)):
            if self.content_format == "images":
                raise SettingError(f"{name}: is for data sets; a folder of images has no columns")
        if self.key_column and self.content_format == "tar":
            raise SettingError("key_column: is not for tars, whose members have names")
        if self.label_column and self.label_from != "auto":
            raise SettingError("label_column: is not used; leave out --label-from")
