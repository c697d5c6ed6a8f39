"""A contact sheet: pictures in rows and columns, with captions, and how they were made."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

from pipeline.data.images import codec

GAP, MARGIN = 6, 18
"""Pixels between pictures, and around all of them."""

PAPER, INK, FAINT = (250, 249, 246), (34, 34, 34), (110, 110, 110)
"""Colours of the ground, of captions and of what is said below them."""


@dataclass(frozen=True)
class Sheet:
    """columns: captions above. cells: a picture and its caption for each place, row by row; lines
    of text in place of a picture; None where a picture is missing."""

    columns: Sequence[str]
    cells: Sequence[Sequence[tuple[Image.Image | str | None, str]]]


def draw(sheet: Sheet, edge: int) -> Image.Image:
    """The sheet with square cells of ``edge`` pixels."""
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
    """Write a .png or .jpg file that tells how it was made, if ``origin`` is given."""
    kind = target.suffix.lstrip(".")
    target.write_bytes(codec.encode(np.asarray(page), kind, 92, origin))


def origin_of(path: Path) -> dict[str, Any]:
    """What ``save`` was told; empty if it was told nothing."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        text = image.info.get("Description") or image.getexif().get(ExifTags.Base.ImageDescription)
    return json.loads(text) if text else {}
