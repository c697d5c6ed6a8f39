"""Building a manifest of pairs from a data set of contents and a folder of styles.

Contents are streamed, and nothing is unpacked; styles, which are few, are held in memory.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.make_manifest import parts, sampling, selection
from pipeline.data.make_manifest.classes import Classes, read_names
from pipeline.data.make_manifest.labels import Labels, LabelsError
from pipeline.data.make_manifest.parts import Row
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
from pipeline.data.names import check_name
from pipeline.data.storage import uris
from pipeline.data.storage.listing import ListingError
from pipeline.settings import ManifestSettings, did_you_mean

DRAWS = 2**16
"""Random numbers drawn at a time: few enough for a processor's cache."""

ORIGINAL = "original"
"""What stands for the style in the id of a content that is copied as it is."""


class BuildError(ValueError):
    """No manifest can be built. The message says why and what to do."""


@dataclass
class Built:
    """Counts of what a manifest holds and of the files that were skipped.

    Attributes:
        pairs: rows of the manifest.
        files: Parquet files of the manifest.
        columns: of the manifest.
        styles: style images.
        contents: content images that have rows.
        labels: those content images by label.
        splits: those content images by split.
        originals: rows that copy their content as it is.
        left_out: content images that stay as they are, and so have no row.
        unmet_classes: classes that were asked for and that no content has.
        unmet_labels: files that the CSV file of labels names and that are no content images.
        skipped: what else the contents' place holds and was not taken, by reason.
    """

    pairs: int = 0
    files: int = 0
    columns: Sequence[str] = ()
    styles: int = 0
    contents: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    splits: Counter[str | None] = field(default_factory=Counter)
    originals: int = 0
    left_out: int = 0
    unmet_classes: set[str] = field(default_factory=set)
    unmet_labels: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


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
        built.columns = _columns(settings, source, classes)
        labels = _labels(settings)
        contents = _contents(settings, source, labels, classes, built)
        with parts.Parts(output, built.columns, settings.overwrite, options) as folder:
            rows = _rows(settings, contents, styles, built)
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
                f"{built.left_out} contents as they are; raise it, or add --include-originals"
            )
        raise _nothing("content", settings.content, source.form, built.skipped)
    for name in sorted(built.unmet_classes):
        raise BuildError(
            f"classes: no content has the label {name[:80]!r}; leave it out, or check its spelling"
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


def describe(counts: Counter[str], most: int = 5) -> str:
    """Return counts in words, most frequent first: ``12 .txt, 3 hidden``."""
    named = [f"{count} {name}" for name, count in counts.most_common(most)]
    return ", ".join([*named, *(["..."] if len(counts) > most else [])])


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


def _rows(
    settings: ManifestSettings, contents: Iterator[Content], styles: Styles, built: Built
) -> Iterator[Row]:
    while some := list(itertools.islice(contents, max(1, DRAWS // len(styles)))):
        taken = [content for content in some if _is_taken(settings, content, styles, built)]
        for content, drawn in zip(taken, styles.draw(taken), strict=True):
            _count(content, built)
            place = (content.label, content.split, content.label_id)
            if not selection.is_stylized(content, settings.style_probability, settings.seed):
                drawn = []
            if settings.include_originals and (not drawn or settings.style_probability == 1):
                built.originals += 1
                name = sampling.pair_id(content.key, ORIGINAL, content.label)
                yield Row(name, content.uri, None, *place, original=True)
            for style in drawn:
                name = sampling.pair_id(content.key, style.key, content.label)
                yield Row(name, content.uri, style.uri, *place)


def _is_taken(settings: ManifestSettings, content: Content, styles: Styles, built: Built) -> bool:
    """Return whether a content has pairs, and count it if not."""
    if not styles.has_class(content.label):
        built.skipped["without styles for the class"] += 1
        return False
    stays = not selection.is_stylized(content, settings.style_probability, settings.seed)
    built.left_out += stays and not settings.include_originals
    return settings.include_originals or not stays


def _count(content: Content, built: Built) -> None:
    """Count a content.

    Raises:
        BuildError: its label or its split cannot be the name of a folder in the output.
    """
    built.contents += 1
    for name, part, counts in (
        ("label", content.label, built.labels),
        ("split", content.split, built.splits),
    ):
        if part is not None and part not in counts:
            try:
                check_name(name, part)
            except RowError as error:
                raise BuildError(f"{uris.redact(content.uri)}: {error}") from error
        counts[part] += 1


def _columns(settings: ManifestSettings, source: Source, classes: Classes | None) -> list[str]:
    """Return the columns of the manifest.

    Raises:
        BuildError: contents are to be chosen by their labels, and have none.
    """
    found = ["pair_id", "content_uri", "style_uri"]
    own = source.columns if settings.label_from == "auto" else frozenset()
    has_labels = settings.label_from in ("parent", "csv") or bool({"label", "label_id"} & own)
    if has_labels:
        found.append("label")
        if classes is not None or "label_id" in own:
            found.append("label_id")
    else:
        chosen = ("classes", "per_class", "style_per_class", "label_column", "class_names")
        for name in (name for name in chosen if getattr(settings, name)):
            raise BuildError(
                f"{name}: the contents have no labels; add --label-from parent (class folders) or "
                "--labels FILE"
            )
    is_split = settings.split_from == "auto" and "split" in source.columns
    if is_split or settings.split_from in ("parent", "csv") or settings.val_fraction:
        found.append("split")
    return [*found, "original"] if settings.include_originals else found


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
    if classes is None:
        return asked
    return asked | {"class_list": {"names": classes.names, "labels": classes.labels}}
