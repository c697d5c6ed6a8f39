"""``Stylizer``: a callable class for ``Dataset.map_batches`` in pipelines of one's own."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.images import codec
from pipeline.data.manifest import columns
from pipeline.notebook import pictures
from pipeline.notebook.call import make_batcher, to_pair
from pipeline.notebook.pictures import Picture
from pipeline.settings import StyleSettings, as_settings, replace
from pipeline.style.optimize import optimise
from pipeline.style.recipe import Pair, to_pixels
from pipeline.style.serving.phases import Done

logger = logging.getLogger(__name__)

Batch = dict[str, npt.NDArray[Any]]

READ = ("content_image", "style_image")

ADDED = {"stylized_image": "binary", "total_loss": "double", "error": "string"}
"""Columns, and their types in Arrow."""


class Stylizer:
    """Adds ``stylized_image``, ``total_loss`` and ``error`` to rows with two pictures.

    Reads ``content_image`` and ``style_image``: arrays (H, W, 3), uint8 or floats in [0, 1], or
    the bytes of image files. ``stylized_image`` holds the bytes of a PNG file. A row that fails has
    null there, NaN as ``total_loss``, and says why in ``error``, which is null in all others.

    Args:
        device: ``cuda`` or ``cpu``; a GPU if the actor has one.
        max_pixels: files with more are refused before they are decoded.
        slots: most pairs optimised together; 8 on a GPU, 1 on a CPU if not given.
        settings: fields of ``StyleSettings``.

    Raises:
        SettingError: a setting is unknown or out of range.
        WeightsError: the weights cannot be had.
    """

    def __init__(
        self,
        *,
        device: str | None = None,
        max_pixels: int = 100_000_000,
        slots: int | None = None,
        **settings: Any,
    ) -> None:
        self.settings = replace(StyleSettings(), **as_settings(settings))
        self.max_pixels = max_pixels
        self.batcher = make_batcher(self.settings, None, device, slots)

    def __call__(self, batch: Any) -> Any:
        """One batch in Ray Data's format ``numpy``, ``pandas`` or ``pyarrow``.

        Returns: a table for a table; of the others a dict of arrays.

        Raises:
            KeyError: a column is missing.
            RuntimeError: a CUDA error: the device can no longer be used.
        """
        is_table = hasattr(type(batch), "column_names")
        names = batch.column_names if is_table else list(batch)
        if missing := [name for name in READ if name not in names]:
            raise KeyError(f"column {missing[0]} is missing; the batch has {names}")
        if is_table:
            added = self._stylize(*(columns.values(batch, name) for name in READ))
            return columns.replace(batch, added, ADDED)
        added = self._stylize(*(batch[name] for name in READ))
        return {str(name): np.asarray(batch[name]) for name in names} | added

    def _stylize(self, contents: Iterable[Any], styles: Iterable[Any]) -> Batch:
        loaded = [self._load(*pair) for pair in zip(contents, styles, strict=True)]
        return _columns(optimise(self.batcher, loaded))

    def _load(self, content: Any, style: Any) -> Pair | Exception:
        try:
            pictures_of = (content, "content_image"), (style, "style_image")
            content_image, style_image = (self._picture(*each) for each in pictures_of)
            return to_pair(content_image, [style_image], self.settings)
        except Exception as error:  # a promise: no row ends its batch
            return error

    def _picture(self, value: Any, column: str) -> Picture:
        if isinstance(value, bytes):
            notes: list[str] = []
            value = codec.decode(value, column, self.max_pixels, notes=notes)
            for note in notes:
                logger.warning("%s: a picture was read, but %s", column, note)
        pictures.check(value, column)
        picture: Picture = value
        return picture


def _columns(done: list[Done | Exception]) -> Batch:
    files = np.empty(len(done), object)
    faults = np.empty(len(done), object)
    losses = np.full(len(done), np.nan)
    for index, answer in enumerate(done):
        if isinstance(answer, Exception):
            faults[index] = f"{type(answer).__name__}: {answer}"
        else:
            files[index] = codec.encode(to_pixels(answer.image), "png", 100)
            losses[index] = answer.history.total_loss
    return {"stylized_image": files, "total_loss": losses, "error": faults}
