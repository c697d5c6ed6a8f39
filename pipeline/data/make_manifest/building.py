"""Building a manifest of pairs from a data set of contents and a folder of styles.

Contents are streamed, and nothing is unpacked; styles, which are few, are held in memory.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.data.make_manifest import parts, selection
from pipeline.data.make_manifest.built import BuildError, Built, describe
from pipeline.data.make_manifest.classes import Classes, read_names
from pipeline.data.make_manifest.labels import Labels, LabelsError
from pipeline.data.make_manifest.pairing import columns_of, rows_of
from pipeline.data.make_manifest.sources import tars
from pipeline.data.make_manifest.sources.base import Columns, Content, Source, SourceError
from pipeline.data.make_manifest.sources.opening import open_source
from pipeline.data.make_manifest.styles import (
    Styles,
    classes_of,
    list_styles,
    read_weights,
    weigh,
)
from pipeline.data.manifest import lineage
from pipeline.data.storage import files, uris
from pipeline.data.storage.listing import ListingError
from pipeline.settings import ManifestSettings, did_you_mean


def build(settings: ManifestSettings, said: Callable[[Built], None] = lambda built: None) -> Built:
    """Build the manifest that ``settings`` describe.

    If this fails or is stopped, no part of the manifest stays behind.

    Args:
        settings: which pairs, and where the manifest goes.
        said: called with the counts so far after each file is written.

    Returns:
        The counts.

    Raises:
        BuildError: there is nothing to pair, a file of the data set cannot be read, a label cannot
            be a folder name, or the output is in use.
        RowError: the output cannot be written.
    """
    options = settings.storage_options or {}
    output = uris.absolute(settings.output)
    try:
        parts.check_folder(output, settings.overwrite, options)
        built = Built()
        styles = _styles(settings, built)
        columns = Columns(settings.image_column, settings.label_column, settings.key_column)
        source = open_source(settings.content, options, settings.content_format, columns)
        classes = _classes(settings, source)
        built.columns = columns_of(settings, source, classes)
        labels = _labels(settings)
        contents = _contents(settings, source, labels, classes, built)
        with parts.Parts(output, built.columns, settings.overwrite, options) as folder:
            rows = rows_of(settings, contents, styles, built)
            while some := list(itertools.islice(rows, settings.rows_per_file)):
                folder.write(some)
                built.pairs, built.files = built.pairs + len(some), built.files + 1
                said(built)
            _check_met(settings, built, source)
            built.unmet_labels = labels.count_unmet() if labels else 0
            folder.recipe = _recipe(settings, source, classes, built)
        return built
    except (ListingError, LabelsError, SourceError, parts.FolderError) as error:
        raise BuildError(str(error)) from error


def _styles(settings: ManifestSettings, built: Built) -> Styles:
    """Return the styles, and check that there are enough of them."""
    options = settings.storage_options or {}
    skipped: Counter[str] = Counter()
    source = open_source(settings.style, options)
    found = list_styles(source, skipped)
    shown = uris.redact(settings.style)
    if not found:
        raise _nothing("style", settings.style, source.form, skipped)
    built.styles = len(found)
    weights = None
    if settings.style_weights:
        found, weights = weigh(found, read_weights(settings.style_weights, options), shown)
    classes = None
    if settings.style_per_class:
        names = Classes(source.names) if source.names else None
        known = classes_of(found, names)
        if not any(known):
            raise BuildError(
                f"style_per_class: the styles in {shown} are in no class folders; put them into "
                "STYLE/LABEL/"
            )
        kept = [index for index, name in enumerate(known) if name is not None]
        found, classes = [found[index] for index in kept], [known[index] or "" for index in kept]
        weights = weights and [weights[index] for index in kept]
    count = None if settings.mode == "cross" else settings.styles_per_content or 1
    styles = Styles(found, classes, weights, count, settings.seed)
    name, fewest = styles.smallest()
    if count is not None and count > fewest:
        where = f"class {name!r} in {shown} has" if name else f"the folder {shown} holds"
        raise BuildError(
            f"styles_per_content: {count}, but {where} {fewest} styles; ask for fewer, or use "
            "--mode cross"
        )
    return styles


def _contents(
    settings: ManifestSettings,
    source: Source,
    labels: Labels | None,
    classes: Classes | None,
    built: Built,
) -> Iterator[Content]:
    """Return the contents that are taken, with their labels and splits.

    Raises:
        BuildError: there are none.
    """
    skipped, seed = built.skipped, settings.seed
    found = source.contents(skipped)
    found = selection.settle_labels(found, _places(settings, labels), classes, skipped)
    if settings.classes:
        wanted = _wanted(settings, classes)
        built.unmet_classes = set(wanted)
        found = selection.of_classes(found, wanted, built.unmet_classes, skipped)
    if settings.per_class is not None:
        found = selection.some_per_class(found, settings.per_class, seed, skipped)
    if settings.limit is not None:
        found = selection.some_of_all(found, settings.limit, seed)
    if settings.val_fraction:
        found = selection.divide(found, settings.val_fraction, seed)
    some = selection.at_least_one(found)
    if some is None:
        raise _nothing("content", settings.content, source.form, skipped)
    return some


def _wanted(settings: ManifestSettings, classes: Classes | None) -> set[str]:
    """Return the labels that ``--classes`` names.

    Raises:
        BuildError: the class list has no such name.
    """
    if classes is None:
        return set(settings.classes)
    numbers = {name: classes.find(name, None) for name in settings.classes}
    for name, number in numbers.items():
        if number is None:
            some = ", ".join([*classes.names[:5], *(["..."] if len(classes) > 5 else [])])
            meant = did_you_mean(name, classes.names) or f"it has {len(classes)}: {some}"
            raise BuildError(f"classes: {name[:80]!r} is not in the class list; {meant}")
    return {classes.labels[number] for number in numbers.values() if number is not None}


def _check_met(settings: ManifestSettings, built: Built, source: Source) -> None:
    """Check that there are pairs, and some of each class that was asked for.

    Raises:
        BuildError: there are not.
    """
    if not built.pairs:
        if built.left_out:
            raise BuildError(
                f"style_probability: {settings.style_probability} leaves all "
                f"{built.left_out} content images as they are; raise it, or add --include-originals"
            )
        raise _nothing("content", settings.content, source.form, built.skipped)
    for name in sorted(built.unmet_classes):
        raise BuildError(
            f"classes: no content image has the label {name[:80]!r}; leave it out, or check its "
            "spelling"
        )


_KINDS = {
    "images": "image files end in .jpg, .jpeg, .png, .webp, .tif, .gif, .bmp, .ppm, .jp2, .avif",
    "tar": "a sample is KEY.jpg (or another image's ending) with KEY.cls or KEY.json",
    "csv": "each line names an image in a column file_name, content_uri or image",
}


_TABLES = "pictures are in columns of bytes, or of struct{bytes, path}, in files *.parquet"


def _nothing(name: str, uri: str, form: str, skipped: Counter[str]) -> BuildError:
    others = f" (skipped: {describe(skipped)})" if skipped else ""
    hint = _KINDS.get(form, _TABLES)
    if skipped[".arrow"]:
        hint = (
            "Arrow files of save_to_disk are not read; write Parquet: "
            "load_from_disk(FOLDER).to_parquet(FILE)"
        )
    return BuildError(f"{name} {uris.redact(uri)}: holds no image{others}; {hint}")


def _labels(settings: ManifestSettings) -> Labels | None:
    """Read the CSV file of labels and splits, if there is one."""
    columns = {"label": settings.label_from, "split": settings.split_from}
    from_csv = tuple(name for name, source in columns.items() if source == "csv")
    return Labels(settings.labels, from_csv, settings.storage_options or {}) if from_csv else None


def _classes(settings: ManifestSettings, source: Source) -> Classes | None:
    """Return the class list: what the user gave, else the data set's own."""
    options = settings.storage_options or {}
    if settings.label_from == "none":
        return None
    beside = None
    if source.form == "tar" and settings.label_from == "auto":
        beside = tars.names_beside(settings.content, options)
    given = settings.class_names or beside
    if given:
        return Classes(read_names(given, options))
    return Classes(source.names) if source.names and settings.label_from == "auto" else None


def _places(settings: ManifestSettings, table: Labels | None) -> Callable[[Content], Content]:
    """Return a function that sets a content's label and split where they are not its own."""

    def place(content: Content) -> Content:
        found = (table and table.find(content.path)) or (None, None)
        label, split = content.label, content.split
        number = content.label_id
        folders = content.path.split("/")[:-1]
        if settings.label_from != "auto":
            label, number = found[0], None
            if settings.label_from == "parent" and folders:
                label = folders.pop()
        if settings.split_from != "auto":
            split = found[1]
            if settings.split_from == "parent" and folders:
                split = folders.pop()
        return content._replace(label=label, label_id=number, split=split)

    return place


def _folder_of(uri: str, options: files.StorageOptions) -> str:
    """Return the folder of a data set: ``uri``, or that of the file or the files it names."""
    whole = uris.absolute(uri)
    literal = re.split(r"[{*?[]", whole, maxsplit=1)[0]
    is_folder = literal == whole and files.is_folder(whole, options)
    return whole if is_folder else literal.rpartition("/")[0]


def _recipe(
    settings: ManifestSettings, source: Source, classes: Classes | None, built: Built
) -> dict[str, Any]:
    """Return how the manifest was built, for ``_manifest.json``."""
    asked = {
        name: uris.redact(value) if isinstance(value, str) else value
        for name, value in vars(settings).items()
        if name not in ("storage_options", "overwrite")
    }
    counts = {"contents": built.contents, "styles": built.styles, "pairs": built.pairs}
    asked |= {"content_format": source.form, **counts, "skipped": dict(built.skipped)}
    options = settings.storage_options or {}
    places = {"content": settings.content, "style": settings.style}
    asked["licences"] = {
        place: lineage.card_fields(_folder_of(uri, options), options)
        for place, uri in places.items()
    }
    if classes is None:
        return asked
    return asked | {"class_list": {"names": classes.names, "labels": classes.labels}}
