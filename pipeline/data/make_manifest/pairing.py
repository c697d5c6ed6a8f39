"""Contents and styles to rows of a manifest."""

import itertools
from collections.abc import Iterator

from pipeline.data.errors import RowError
from pipeline.data.make_manifest import sampling, selection
from pipeline.data.make_manifest.built import BuildError, Built
from pipeline.data.make_manifest.classes import Classes
from pipeline.data.make_manifest.parts import Row
from pipeline.data.make_manifest.sources.base import Content, Source
from pipeline.data.make_manifest.styles import (
    Styles,
)
from pipeline.data.manifest.lineage import CREDITS
from pipeline.data.names import check_name
from pipeline.data.storage import uris
from pipeline.settings import ManifestSettings

DRAWS = 2**16
"""Random numbers drawn at a time: few enough for a processor's cache."""


ORIGINAL = "original"
"""What stands for the style in the id of a content that is copied as it is."""


def rows_of(
    settings: ManifestSettings, contents: Iterator[Content], styles: Styles, built: Built
) -> Iterator[Row]:
    """Yield the rows of the manifest: each content with the styles that are drawn for it."""
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
                yield Row(name, content.uri, None, *place, True, content.credits)
            for style in drawn:
                name = sampling.pair_id(content.key, style.key, content.label)
                yield Row(name, content.uri, style.uri, *place, False, content.credits)


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


def columns_of(settings: ManifestSettings, source: Source, classes: Classes | None) -> list[str]:
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
                f"{name}: the content images have no labels; add --label-from parent (class "
                "folders) or --labels FILE"
            )
    is_split = settings.split_from == "auto" and "split" in source.columns
    if is_split or settings.split_from in ("parent", "csv") or settings.val_fraction:
        found.append("split")
    if settings.include_originals:
        found.append("original")
    return [*found, *(name for name in CREDITS if name in source.columns)]
