"""What ``stylize`` gives back: the picture, its loss history, and pictures on their way."""

import io
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pipeline.notebook import pictures
from pipeline.notebook.pictures import Picture
from pipeline.style import recipe
from pipeline.style.serving.phases import Done, History


@dataclass(frozen=True)
class LossHistory(History):
    """What happened to one picture, and a plot of it."""

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss after each evaluation, on a log axis, with a dotted line between scales.

        Args:
            ax: matplotlib's Axes to draw into; the current ones if None.

        Returns:
            The Axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError as error:
                raise ImportError("plot() needs matplotlib: pip install matplotlib") from error
            ax = plt.gca()
        ax.semilogy(range(1, len(self.total) + 1), self.total)
        start = 0
        for (height, width), evaluations in self.phases:
            if start:
                ax.axvline(start + 0.5, color="grey", linestyle=":")
            place = ax.get_xaxis_transform()
            ax.text(start + 1, 0.98, f"{width} x {height}", transform=place, va="top", size="small")
            start += evaluations
        ax.set(xlabel="evaluation", ylabel="loss")
        return ax


@dataclass(frozen=True)
class Result:
    """A stylised picture. A notebook shows it where it is a cell's last value.

    Attributes:
        image: of the content's kind: a PIL image, an array (H, W, 3) or a tensor (3, H, W).
        history: its losses, with ``plot()``.
        error: None; a ``Failure`` has one.
    """

    image: Any
    history: LossHistory = field(repr=False)
    error: None = field(default=None, repr=False)

    def _repr_png_(self) -> bytes:
        """Return the picture as a PNG file, for IPython."""
        shown = io.BytesIO()
        pictures.to_pil(self.image).save(shown, "PNG")
        return shown.getvalue()


@dataclass(frozen=True)
class Failure:
    """One of several pictures that could not be made.

    Attributes:
        error: the reason; reading ``image`` or ``history`` raises it.
    """

    error: Exception

    @property
    def image(self) -> Any:
        """Raise the error."""
        raise self.error

    @property
    def history(self) -> LossHistory:
        """Raise the error."""
        raise self.error


@dataclass(frozen=True)
class Step:
    """A picture on its way, as ``on_step`` is given it.

    That is after each evaluation but the last of each scale.

    Attributes:
        index: which of several pictures, from 0.
        evaluation: evaluations so far, from 1.
        loss: the loss of the latest evaluation.
    """

    index: int
    evaluation: int
    loss: float
    _latest: Tensor = field(repr=False)
    _pair: recipe.Pair = field(repr=False)
    _given: Picture = field(repr=False)

    @property
    def image(self) -> Picture:
        """The picture so far, of the content's kind; small while it is on a coarse scale."""
        return pictures.like(recipe.finish(self._latest, self._pair), self._given)


def result_of(done: Done, given: Picture) -> Result:
    """Return a finished pair as a result of the kind of ``given``."""
    return Result(pictures.like(done.image, given), LossHistory(**vars(done.history)))
