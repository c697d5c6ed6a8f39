"""A contact sheet: pictures in rows and columns with captions, and a note of how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.data.images import codec

GAP, MARGIN = 6, 18
"""Space between pictures, and around all of them, in pixels."""

PAPER, INK, FAINT = (250, 249, 246), (34, 34, 34), (110, 110, 110)
"""Colours of the paper, of the columns' captions and of the pictures' captions."""


Cell = tuple[Image.Image | str | None, str]
"""A picture and its caption. Text may stand in place of a picture; None is a missing picture."""


@dataclass(frozen=True)
class Sheet:
    """What a contact sheet shows.

    Attributes:
        columns: captions above the columns; none if empty.
        cells: the cells row by row.
    """

    columns: Sequence[str]
    cells: Sequence[Sequence[Cell]]


def draw(sheet: Sheet, edge: int) -> Image.Image:
    """Draw the sheet with square cells of ``edge`` pixels."""
    line = max(14, edge // 9)
    font = ImageFont.load_default(max(10, edge // 15))
    top = MARGIN + (line if any(sheet.columns) else 0)
    width = 2 * MARGIN + len(sheet.cells[0]) * (edge + GAP) - GAP
    height = top + len(sheet.cells) * (edge + line) + MARGIN - line // 2
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    for column, caption in enumerate(sheet.columns):
        x = MARGIN + column * (edge + GAP)
        pen.text((x, top - line // 2), caption, INK, font=font, anchor="lm")
    for row, cells in enumerate(sheet.cells):
        y = top + row * (edge + line)
        for column, (cell, caption) in enumerate(cells):
            x = MARGIN + column * (edge + GAP)
            _place(page, cell, x, y, edge)
            pen.text((x, y + edge + line // 2), caption, FAINT, font=font, anchor="lm")
    return page


def _place(
    page: Image.Image, cell: Image.Image | str | None, left: int, top: int, edge: int
) -> None:
    if isinstance(cell, str):
        pen, font = ImageDraw.Draw(page), ImageFont.load_default(max(10, edge // 13))
        pen.multiline_text((left, top), cell, INK, font=font, spacing=edge // 24)
        return
    if cell is None:
        pen = ImageDraw.Draw(page)
        pen.rectangle((left, top, left + edge - 1, top + edge - 1), outline="red")
        pen.line((left, top, left + edge, top + edge), fill="red", width=3)
        pen.line((left, top + edge, left + edge, top), fill="red", width=3)
        return
    page.paste(
        ImageOps.fit(cell.convert("RGB"), (edge, edge), Image.Resampling.LANCZOS), (left, top)
    )


def save(page: Image.Image, target: Path, origin: Mapping[str, Any] | None = None) -> None:
    """Write a sheet to a .png or .jpg file, with ``origin`` in its description."""
    kind = target.suffix.lstrip(".")
    target.write_bytes(codec.encode(np.asarray(page), kind, 92, origin))
