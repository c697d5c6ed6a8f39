"""A style actor whose device costs nothing: each pair is done as soon as it begins.

All but the optimisation is the real actor's: rows, pictures to the device and back, the board.
"""

from collections.abc import Callable, Container, Hashable, Mapping
from typing import Any
from unittest import mock

import pyarrow as pa
from torch import Tensor

from jobs.bench import parts
from jobs.bench.simulated import EVALUATIONS, LOSSES
from pipeline.engine.board import Board
from pipeline.engine.starting import StyleActor
from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.method.balance import LossWeights
from pipeline.style.recipe import Pair
from pipeline.style.serving.batching import Batcher, Outcome
from pipeline.style.serving.phases import Done, History


class InstantActor(StyleActor):
    """A ``StyleActor`` whose pairs are not optimised."""

    folder = ""
    """Where ``parts.note`` writes."""

    def __init__(self, board: Board, weights: Any, more: Callable[[], Mapping[str, Any]]) -> None:
        from pipeline.engine import actor

        with mock.patch.object(actor, "Batcher", InstantBatcher):
            super().__init__(board, weights, more)

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Do as the real one, and note what the process took."""
        made = await super().__call__(table)
        parts.note(self.folder, "style actor", len(table), {})
        return made


class InstantBatcher(Batcher):
    """A ``Batcher`` whose tick ends every pair that may begin, with its content as the result."""

    def tick(self, may_begin: Container[Hashable] | None = None) -> list[Outcome]:
        """Return the content image of the pairs that may begin, once it was on the device."""
        outcomes: list[Outcome] = []
        self.ticks += 1
        for key, queue in list(self.waiting.items()):
            for opened in list(queue):
                if may_begin is not None and opened.key not in may_begin:
                    continue
                self._forget(key, opened)
                pair = opened.asked
                assert isinstance(pair, Pair)  # noqa: S101
                image = recipe.to_tensor(pair.content_image, self.network.device)
                image = self.finish(image, pair)
                outcomes.append((opened.key, done(image, pair.settings, self.pool.slots)))
        return outcomes


def done(image: Tensor, settings: StyleSettings, slots: int) -> Done:
    """Return a finished pair with made-up losses."""
    size = image.shape[0], image.shape[1]
    layers = dict.fromkeys(settings.style_layers, 0.1)
    history = History(
        total=LOSSES,
        total_loss=1.0,
        content_loss=0.2,
        style_loss=0.7,
        tv_loss=0.1,
        layers=layers,
        weights=LossWeights(alpha=1.0, beta=1.0, w=layers, tv=1.0, layers=layers),
        evaluations=EVALUATIONS,
        steps=EVALUATIONS - 1,
        stop="iterations",
        phases=((size, EVALUATIONS),),
    )
    return Done(image, history, 0.0, slots)
