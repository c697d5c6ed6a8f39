"""Loss weights given as numbers, for tests that need neither Ray nor weights from a pair."""

from pipeline.settings import StyleSettings
from pipeline.style.method.balance import LossWeights


def equal_weights(
    alpha: float, beta: float = 1.0, settings: StyleSettings | None = None, tv: float = 0.0
) -> LossWeights:
    """Use alpha and beta as given, and w_l from ``settings`` if they are numbers, else equal."""
    settings = settings or StyleSettings()
    layers, given = settings.style_layers, settings.style_layer_weights
    values = given if isinstance(given, tuple) else (1 / max(len(layers), 1),) * len(layers)
    return LossWeights(alpha, beta, dict(zip(layers, values, strict=True)), tv, {})
