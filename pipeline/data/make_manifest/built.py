"""What a manifest holds once it is built: counts, and why it could not be built."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


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


def describe(counts: Counter[str], most: int = 5) -> str:
    """Return counts in words, most frequent first: ``12 .txt, 3 hidden``."""
    named = [f"{count} {name}" for name, count in counts.most_common(most)]
    return ", ".join([*named, *(["..."] if len(counts) > most else [])])
