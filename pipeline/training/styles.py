"""The styles of a training run: pictures, files and folders, drawn at random by their weights."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.data.errors import RowError
from pipeline.data.images import codec, conversion, sizing
from pipeline.data.make_manifest.sources.images import ENDINGS, unfit
from pipeline.data.storage import files, listing, uris
from pipeline.data.storage.filesystems import StorageOptions
from pipeline.settings import StyleSettings
from pipeline.style.method.targets import Size
from pipeline.style.recipe import Pixels, to_pixels
from pipeline.training.images import UnfitError, to_unit

StyleSource = Image.Image | npt.NDArray[Any] | Tensor | str | os.PathLike[str]
"""A PIL image, an array (H, W, 3), a tensor (3, H, W), or the path or URI of a file or folder."""

MOST_PIXELS = 100_000_000
"""Style files with more pixels are refused."""


class Styles:
    """Styles by number. Files are read when they are first drawn.

    Args:
        given: one style source or several. A folder stands for all image files below it.
        weights: a weight for each source; a folder's is divided equally among its files. Equal
            weights for all styles if None.
        settings: say how large a style image is beside the training image.
        kept: resized style images that are kept in memory. If there are no more files than that,
            all are read once here, so that a bad one is found early.
        options: fsspec options by scheme.

    Raises:
        TypeError: a source is neither a picture nor a path.
        ValueError: there are no styles, the weights do not fit, or a picture cannot be used.
    """

    def __init__(
        self,
        given: StyleSource | Sequence[StyleSource],
        weights: Sequence[float] | None,
        settings: StyleSettings,
        *,
        kept: int,
        options: StorageOptions,
    ) -> None:
        self.settings, self.kept, self.options = settings, kept, options
        sources = _several(given)
        if weights is not None:
            _check_weights(weights, len(sources))
        self.pictures: list[Image.Image | str] = []  # the string is a URI
        shares: list[float] = []
        for index, source in enumerate(sources):
            found = self._expand(source)
            self.pictures += found
            share = 1.0 if weights is None else weights[index] / len(found)
            shares += [share] * len(found)
        self.shares = torch.tensor(shares, dtype=torch.float64)
        self.sized: OrderedDict[tuple[int, float], Pixels] = OrderedDict()
        if len(self) <= kept:
            for index in range(len(self)):
                self._picture(index)

    def __len__(self) -> int:
        """Return the number of styles."""
        return len(self.pictures)

    def draw(self, count: int, generator: torch.Generator | None = None) -> list[int]:
        """Draw ``count`` styles with replacement, from torch's own generator if None is given."""
        if not count:
            return []
        drawn = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        return [int(index) for index in drawn]

    def image(self, index: int, size: Size) -> Pixels:
        """Return a style image for a training image of ``size`` (H, W).

        Raises:
            UnfitError: its file cannot be read, or it is too narrow.
        """
        edge = max(size) if self.settings.image_edge == "long" else min(size)
        key = index, edge * self.settings.style_scale
        if key not in self.sized:
            picture = self._picture(index)
            try:
                fitted = sizing.fit_size(*picture.size, key[1], self.settings.image_edge, 2**31)
            except RowError as error:
                raise UnfitError(f"a style of {error}") from error
            self.sized[key] = sizing.resize(picture, fitted)
            if len(self.sized) > self.kept:
                self.sized.popitem(last=False)
        self.sized.move_to_end(key)
        return self.sized[key]

    def _picture(self, index: int) -> Image.Image:
        picture = self.pictures[index]
        if isinstance(picture, Image.Image):
            return picture
        try:
            data = files.read_bytes(picture, self.options)
            return codec.decode(data, uris.redact(picture), MOST_PIXELS)
        except RowError as error:
            raise UnfitError(f"style {error}") from error

    def _expand(self, source: Any) -> Sequence[Image.Image | str]:
        """Return the styles that a source stands for, at least one."""
        if isinstance(source, Image.Image):
            return [conversion.to_rgb(source)]
        if isinstance(source, (np.ndarray, Tensor)):
            return [_picture_of(source)]
        if not isinstance(source, (str, os.PathLike)):
            raise TypeError(f"styles: a {type(source).__name__} is neither a picture nor a path")
        uri = os.fspath(source)
        found = list(listing.iterate_files(uri, self.options))
        # One file may have any ending; its reader says whether it is a picture.
        if [file.uri for file in found] == [uris.absolute(uri)]:
            return [found[0].uri]
        images = sorted(file.uri for file in found if not unfit(file.key, ENDINGS))
        if not images:
            raise ValueError(f"styles: {uris.redact(uri)}: no image files in this folder")
        return images


def _several(given: Any) -> Sequence[Any]:
    stacked = isinstance(given, (np.ndarray, Tensor)) and given.ndim == 4
    if not stacked and not isinstance(given, (list, tuple)):
        return [given]
    if not len(given):
        raise ValueError("styles: none is given; give pictures, paths or a folder")
    return list(given)


def _check_weights(weights: Sequence[float], sources: int) -> None:
    fits = len(weights) == sources and all(0 <= weight < float("inf") for weight in weights)
    if not fits or not sum(weights):
        raise ValueError(
            f"style_weights: {list(weights)} does not fit {sources} style sources; give a weight "
            "of at least 0 for each, not all 0"
        )


def _picture_of(source: npt.NDArray[Any] | Tensor) -> Image.Image:
    """Return an array (H, W, 3) or a tensor (3, H, W) as a PIL image."""
    tensor = source
    if isinstance(source, np.ndarray):
        if source.ndim != 3:
            raise ValueError(f"styles: an array of shape {source.shape}; give (H, W, 3)")
        tensor = torch.from_numpy(np.array(source)).permute(2, 0, 1)
    try:
        return Image.fromarray(to_pixels(to_unit(tensor)))
    except ValueError as error:
        raise ValueError(f"styles: {error}") from error
