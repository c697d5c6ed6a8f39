"""Building a manifest of pairs from two folders of images.

Content images are streamed; style images, which are few, are held in memory.
"""

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.errors import RowError
from pipeline.data.make_manifest import parts, sampling
from pipeline.data.make_manifest.labels import Labels, LabelsError, Place
from pipeline.data.make_manifest.parts import Row
from pipeline.data.names import check_name
from pipeline.data.storage import files, uris
from pipeline.data.storage.listing import File, ListingError, iterate_files
from pipeline.settings import ManifestSettings

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".gif"),
    *(".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf"),
    *(".jpx", ".avif", ".avifs"),
)
"""File name endings of the formats that a job opens (``codec.FORMATS``)."""

DRAWS = 2**16
"""Random numbers drawn at a time: few enough for a processor's cache."""


class BuildError(ValueError):
    """No manifest can be built. The message says why and what to do."""


@dataclass
class Built:
    """Counts of what a manifest holds and of the files that were skipped.

    Attributes:
        pairs: rows of the manifest.
        files: Parquet files of the manifest.
        styles: style images.
        contents: content images.
        labels: content images by label.
        splits: content images by split.
        unmet_labels: files that the CSV file of labels names and that are no content images.
        passed_over: content files that were skipped, by reason.
    """

    pairs: int = 0
    files: int = 0
    styles: int = 0
    contents: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    splits: Counter[str | None] = field(default_factory=Counter)
    unmet_labels: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)


def build(settings: ManifestSettings, said: Callable[[Built], None] = lambda built: None) -> Built:
    """Build the manifest that ``settings`` describe.

    If this fails or is stopped, no part of the manifest stays behind.

    Args:
        settings: which pairs, and where the manifest goes.
        said: called with the counts so far after each file is written.

    Returns:
        The counts.

    Raises:
        BuildError: there is nothing to pair, a label cannot be a folder name, or the output is in
            use.
        RowError: the output cannot be written.
    """
    options = settings.storage_options or {}
    output = uris.absolute(settings.output)
    try:
        parts.check_folder(output, settings.overwrite, options)
        built = Built()
        styles = _styles(settings, built)
        contents = _at_least_one(_contents(settings, built), settings, built)
        labels = _labels(settings)
        place = _places(settings, labels)
        with parts.Parts(output, _columns(settings), settings.overwrite, options) as folder:
            rows = _rows(settings, contents, styles, place, built)
            while some := list(itertools.islice(rows, settings.rows_per_file)):
                folder.write(some)
                built.pairs, built.files = built.pairs + len(some), built.files + 1
                said(built)
            built.unmet_labels = labels.count_unmet() if labels else 0
            folder.recipe = _recipe(settings, built)
        return built
    except (ListingError, LabelsError, parts.FolderError) as error:
        raise BuildError(str(error)) from error


def _images(uri: str, options: files.StorageOptions, passed_over: Counter[str]) -> Iterator[File]:
    for file in iterate_files(uri, options):
        reason = _unfit(file.key)
        if reason:
            passed_over[reason] += 1
        else:
            yield file


def _unfit(key: str) -> str | None:
    """Return why a file is skipped; None if it is taken."""
    if key.startswith(".") or "/." in key:
        return "hidden"
    ending = "." + key.rpartition("/")[2].rpartition(".")[2].lower()
    if ending not in ENDINGS:
        return ending if "." in key and re.fullmatch(r"\.[a-z]\w{0,5}", ending) else "others"
    if "::" in key:
        return "'::' in the name"
    try:
        key.encode()
    except UnicodeEncodeError:
        return "name not in UTF-8"
    return None


def _styles(settings: ManifestSettings, built: Built) -> list[File]:
    options = settings.storage_options or {}
    passed_over: Counter[str] = Counter()
    styles = sorted(_images(settings.style, options, passed_over), key=lambda file: file.key)
    built.styles = len(styles)
    if not styles:
        raise _nothing("style", settings.style, passed_over)
    if (settings.styles_per_content or 1) > len(styles):
        raise BuildError(
            f"styles_per_content: {settings.styles_per_content}, but the folder "
            f"{uris.redact(settings.style)} holds {len(styles)} styles; ask for fewer, or use "
            "--mode cross"
        )
    return styles


def _contents(settings: ManifestSettings, built: Built) -> Iterator[File]:
    found = _images(settings.content, settings.storage_options or {}, built.passed_over)
    if settings.limit is None:
        return found
    # Smallest hashes instead of first files, since S3 lists one class after another.
    some = heapq.nsmallest(
        settings.limit, found, key=lambda file: sampling.hash_key("limit", settings.seed, file.key)
    )
    return iter(sorted(some, key=lambda file: file.key))


def _at_least_one(
    contents: Iterator[File], settings: ManifestSettings, built: Built
) -> Iterator[File]:
    first = next(contents, None)
    if first is None:
        raise _nothing("content", settings.content, built.passed_over)
    return itertools.chain([first], contents)


def _nothing(name: str, uri: str, passed_over: Counter[str]) -> BuildError:
    others = f" (skipped: {describe(passed_over)})" if passed_over else ""
    return BuildError(
        f"{name} {uris.redact(uri)}: holds no image{others}; image files end in "
        ".jpg, .jpeg, .png, .webp, .tif, .gif, .bmp, .ppm, .jp2, .avif"
    )


def describe(counts: Counter[str], most: int = 5) -> str:
    """Return counts in words, most frequent first: ``12 .txt, 3 hidden``."""
    named = [f"{count} {name}" for name, count in counts.most_common(most)]
    return ", ".join([*named, *(["..."] if len(counts) > most else [])])


def _labels(settings: ManifestSettings) -> Labels | None:
    """Read the CSV file of labels and splits, if there is one."""
    columns = {"label": settings.label_from, "split": settings.split_from}
    from_csv = tuple(name for name, source in columns.items() if source == "csv")
    return Labels(settings.labels, from_csv, settings.storage_options or {}) if from_csv else None


def _places(settings: ManifestSettings, table: Labels | None) -> Callable[[str], Place]:
    """Return a function from a content image's key to its label and split."""

    def place(key: str) -> Place:
        label, split = (table and table.find(key)) or (None, None)
        folders = key.split("/")[:-1]
        if settings.label_from == "parent" and folders:
            label = folders.pop()
        if settings.split_from == "parent" and folders:
            split = folders.pop()
        return label, split

    return place


def _rows(
    settings: ManifestSettings,
    contents: Iterator[File],
    styles: list[File],
    place: Callable[[str], Place],
    built: Built,
) -> Iterator[Row]:
    hashes = sampling.hash_keys([style.key for style in styles])
    count = len(styles) if settings.mode == "cross" else settings.styles_per_content or 1
    while some := list(itertools.islice(contents, max(1, DRAWS // len(styles)))):
        if settings.mode == "cross":
            chosen: Iterable[Iterable[int]] = itertools.repeat(range(count), len(some))
        else:
            keys = [file.key for file in some]
            chosen = sampling.choose(settings.seed, keys, hashes, count).tolist()
        for content, indices in zip(some, chosen, strict=True):
            label, split = _checked(place(content.key), content, built)
            built.contents += 1
            for style in map(styles.__getitem__, indices):
                name = sampling.pair_id(content.key, style.key, label)
                yield Row(name, content.uri, style.uri, label, split)


def _checked(place: Place, content: File, built: Built) -> Place:
    """Count a label and a split.

    Raises:
        BuildError: one of them cannot be the name of a folder in the output.
    """
    for name, part, counts in zip(
        ("label", "split"), place, (built.labels, built.splits), strict=True
    ):
        if part is not None and part not in counts:
            try:
                check_name(name, part)
            except RowError as error:
                raise BuildError(f"{uris.redact(content.uri)}: {error}") from error
        counts[part] += 1
    return place


def _columns(settings: ManifestSettings) -> list[str]:
    places = {"label": settings.label_from, "split": settings.split_from}
    asked = [name for name, source in places.items() if source != "none"]
    return ["pair_id", "content_uri", "style_uri", *asked]


def _recipe(settings: ManifestSettings, built: Built) -> dict[str, Any]:
    """Return how the manifest was built, for ``_manifest.json``."""
    asked = {
        name: uris.redact(value) if isinstance(value, str) else value
        for name, value in vars(settings).items()
        if name not in ("storage_options", "overwrite")
    }
    return asked | {"contents": built.contents, "styles": built.styles, "pairs": built.pairs}
