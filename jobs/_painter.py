"""One set of weights that paints pictures without Ray, for ``quality`` and ``pictures``."""

from torch import Tensor

from pipeline.settings import StyleSettings, fingerprint
from pipeline.style.network.weights import build_network, load_weights
from pipeline.style.optimize import stylize_batch
from pipeline.style.serving.phases import History


class Painter:
    """A network with its settings.

    Args:
        settings: name the weights.

    Raises:
        WeightsError: the weights cannot be loaded.
    """

    def __init__(self, settings: StyleSettings) -> None:
        state, self.digest = load_weights(settings)
        self.settings, self.network = settings, build_network(state, settings)

    @property
    def fingerprint(self) -> str:
        """Digest of the settings and the weights."""
        return fingerprint(self.settings, self.digest)

    def paint(self, content: Tensor, style: Tensor) -> tuple[Tensor, History]:
        """Return the content image (3, H, W) in the style, in [0, 1], and how it came about."""
        (image,), (history,) = stylize_batch(
            content[None], [style], self.settings, network=self.network
        )
        return image, history
