"""The table of content images by styles at the top of the page, and which pairs are in it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report.facts import key_of
from pipeline.report.pairs import Pairs

MOST_CONTENTS, MOST_STYLES = 8, 8
"""Most rows and columns of the table."""

LEAST_FILLED = 0.75
"""Least share of cells that hold a pair; a table with more gaps says little."""


@dataclass(frozen=True)
class Grid:
    """Content images (rows) by styles (columns), as numbers of ``Pairs.contents`` and ``styles``.

    ``cells`` holds the place of each cell's pair in ``Pairs.rows``, -1 where there is none, row by
    row. ``all_contents`` and ``all_styles`` count all those from which the table was chosen.
    """

    contents: list[int]
    styles: list[int]
    cells: list[list[int]]
    all_contents: int
    all_styles: int

    def for_page(self) -> dict[str, Any]:
        """Return the data for the page's script."""
        return {
            "contents": self.contents,
            "styles": self.styles,
            "cells": self.cells,
            "allContents": self.all_contents,
            "allStyles": self.all_styles,
        }


def choose_grid(pairs: Pairs) -> Grid | None:
    """Choose the table: the styles used most and the content images that have most of them.

    Only pairs that succeeded count, and a content image or style used less than half as often as
    the most frequent one is left out, as are pairs of several styles. Equal choices are made at
    random, but the same in every report, from as many classes as there are. Where several pairs
    have one content image and one style, the first one that succeeded is shown.

    Returns:
        None where a table makes no sense: for fewer than two content images or two styles, or where
        each content image has but a few of the styles.
    """
    found = _pairs_by_cell(pairs)
    contents, styles = pairs.contents.listed(), pairs.styles.listed()
    done = [cell for cell, place in found.items() if pairs.rows[place]["ok"]]
    of_style = Counter(style for _, style in done)
    some_styles = _most_frequent(of_style, styles, MOST_STYLES, {})
    of_content = Counter(content for content, style in done if style in some_styles)
    labels = {content: pairs.rows[place]["label"] for (content, _), place in found.items()}
    some_contents = _most_frequent(of_content, contents, MOST_CONTENTS, labels)
    cells = [
        [found.get((content, style), -1) for style in some_styles] for content in some_contents
    ]
    if len(some_contents) < 2 or len(some_styles) < 2:
        return None
    filled = sum(place >= 0 for row in cells for place in row)
    if filled < LEAST_FILLED * len(some_contents) * len(some_styles):
        return None
    return Grid(
        contents=some_contents,
        styles=some_styles,
        cells=cells,
        all_contents=len({content for content, _ in done}),
        all_styles=len(of_style),
    )


def _pairs_by_cell(pairs: Pairs) -> dict[tuple[int, int], int]:
    """Return the place of the pair of each content image and style."""
    found: dict[tuple[int, int], int] = {}
    for place, row in enumerate(pairs.rows):
        if row["content"] < 0 or len(row["styles"]) != 1:
            continue
        cell = (row["content"], row["styles"][0])
        if cell not in found or (row["ok"] and not pairs.rows[found[cell]]["ok"]):
            found[cell] = place
    return found


def _most_frequent(
    counts: Mapping[int, int], names: list[str], most: int, labels: Mapping[int, int]
) -> list[int]:
    """Return the numbers with the highest counts, none below half of the highest, by name.

    Among equal counts each label has its first turn before any has its second.
    """
    least = max(counts.values(), default=0) / 2
    often = [number for number, count in counts.items() if count >= least]
    order = sorted(often, key=lambda number: (-counts[number], key_of(names[number])))
    turns: Counter[int | None] = Counter()
    turn = {}
    for number in order:
        label = labels.get(number)
        turn[number] = turns[label]
        turns[label] += 1
    order.sort(key=lambda number: (-counts[number], turn[number]))
    return sorted(order[:most], key=lambda number: names[number])
