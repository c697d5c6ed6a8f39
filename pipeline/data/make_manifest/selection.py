"""Which contents of a data set a manifest takes: functions of their keys, whatever the order."""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Container, Iterator

from pipeline.data.make_manifest import sampling
from pipeline.data.make_manifest.classes import Classes
from pipeline.data.make_manifest.labels import Place
from pipeline.data.make_manifest.sources.base import Content

OUTSIDE = "with a label outside the class list"

TRAINING = (None, "train")
"""Splits that ``val_fraction`` divides."""


def settle_labels(
    contents: Iterator[Content],
    place: Callable[[Content], Content],
    classes: Classes | None,
    skipped: Counter[str],
) -> Iterator[Content]:
    """Yield contents with the label, its id and the split that they will have.

    A label outside the class list is skipped and counted.

    Args:
        contents: as their source has them.
        place: sets a content's label and split if they are not the data set's own.
        classes: the class list, if there is one.
        skipped: counts by reason.
    """
    for content in map(place, contents):
        label, number = content.label, content.label_id
        if number is not None and number < 0:  # how data sets write "no label"
            label = number = None
        if classes is not None and (label is not None or number is not None):
            number = classes.find(label, number)
            if number is None:
                skipped[OUTSIDE] += 1
                continue
            label = classes.labels[number]
        elif label is None and number is not None:
            label = str(number)
        yield content._replace(label=label, label_id=number)


def of_classes(
    contents: Iterator[Content], labels: Container[str], unmet: set[str], skipped: Counter[str]
) -> Iterator[Content]:
    """Yield the contents with one of the labels, and count the others.

    Args:
        contents: with their labels.
        labels: those that are taken.
        unmet: labels are removed from it as they come.
        skipped: counts by reason.
    """
    for content in contents:
        if content.label is not None and content.label in labels:
            unmet.discard(content.label)
            yield content
        else:
            skipped["of other classes"] += 1


def some_per_class(
    contents: Iterator[Content], most: int, seed: int, skipped: Counter[str]
) -> Iterator[Content]:
    """Yield at most ``most`` contents of each label in each split, drawn by their keys.

    Contents without a label are skipped. Only those that are kept are held in memory.
    """
    kept: dict[Place, list[tuple[int, str, Content]]] = {}
    for content in contents:
        if content.label is None:
            skipped["without a label"] += 1
            continue
        some = kept.setdefault((content.label, content.split), [])
        number = -sampling.hash_key("per_class", seed, content.key)
        if len(some) < most:
            heapq.heappush(some, (number, content.key, content))
        elif number > some[0][0]:
            heapq.heapreplace(some, (number, content.key, content))
    found = (content for some in kept.values() for _, _, content in some)
    return iter(sorted(found, key=lambda content: content.key))


def some_of_all(contents: Iterator[Content], most: int, seed: int) -> Iterator[Content]:
    """Yield at most ``most`` contents, drawn by their keys."""
    # Smallest hashes instead of first files, since S3 lists one class after another.
    some = heapq.nsmallest(
        most, contents, key=lambda content: sampling.hash_key("limit", seed, content.key)
    )
    return iter(sorted(some, key=lambda content: content.key))


def divide(contents: Iterator[Content], fraction: float, seed: int) -> Iterator[Content]:
    """Yield the contents, a share of the training split as ``val``, drawn by their keys.

    What has no split counts as the training split. Other splits stay.
    """
    for content in contents:
        if content.split not in TRAINING:
            yield content
        else:
            is_val = sampling.share("val", seed, content.key) < fraction
            yield content._replace(split="val" if is_val else "train")


def is_stylized(content: Content, probability: float, seed: int) -> bool:
    """Return whether a content gets styles, or stays as it is."""
    return probability >= 1 or sampling.share("stylize", seed, content.key) < probability


def at_least_one(contents: Iterator[Content]) -> Iterator[Content] | None:
    """Return the same contents; None if there are none."""
    first = next(contents, None)
    return None if first is None else itertools.chain([first], contents)
