"""The weights of a pair's loss: alpha, beta and w_l, from the pair's own pictures.

The paper leaves alpha, beta and w_l to whoever runs it (arXiv 1508.06576, equations 5 and 7). With
equal w_l the layer of the largest activations is nine tenths of the style loss, and which alpha
shows the content depends on the network and the image's size. Here the settings are shares, and
what they mean in alpha and w_l follows from the losses of the content image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.targets import StyleTarget
from pipeline.style.network.vgg import VGG

ALIKE = 0.01
"""Least E_l of a content image that counts, relative to the E_l between one of the two pictures and
none at all. Where content and style are alike in a layer there is nothing to balance."""

SILENT = 1e-3
"""Least mean square of the content's activations that counts. Those of a normalised network are of
order 1."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of one pair's loss at one size.

    alpha, beta: of L_content and L_style (equation 7). w: w_l of each style layer (equation 5).
    tv: of the total variation. layers: E_l of the content image, in each style layer
    (``style.conv1_1``), without weights.
    """

    alpha: float
    beta: float
    w: dict[str, float]
    tv: float
    layers: dict[str, float]


@torch.no_grad()
def loss_weights(
    network: VGG, content_image: Tensor, target: StyleTarget, settings: StyleSettings
) -> LossWeights:
    """What ``settings`` mean for a content image (3, H, W) and a target of this size.

    ``style_layer_weights`` = ``balanced`` makes w_l E_l the same in each layer at the content
    image, and their sum 1. ``content_weight`` is then a share of that sum: alpha L_content equals
    it where F^l differs from P^l by as much as P^l from nothing.
    """
    measured: dict[str, Tensor] = {}
    energy = content_image.new_zeros((), dtype=torch.float64)
    filters: dict[str, int] = {}
    wanted = {*settings.style_layers, *settings.content_layers}
    for layer, F in network.activations(content_image[None]):
        if layer in settings.content_layers:
            squares = losses.content_loss(F, torch.zeros_like(F))[0].double()
            energy += squares.clamp_min(0.5 * SILENT * F.numel())
        if layer in settings.style_layers:
            N, M = F.shape[1], F.shape[2] * F.shape[3]
            A, nothing = target.grams[layer][None], torch.zeros_like(target.grams[layer][None])
            filters[layer] = N
            # E_l of the content image; of it without a style; of the style without it.
            measured[layer] = torch.stack(
                [
                    losses.layer_style_loss(F, A * M)[0],
                    losses.layer_style_loss(F, nothing)[0],
                    A.square().sum() / (4 * N**2),
                ]
            ).double()
        wanted.discard(layer)
        if not wanted:
            break
    found = torch.stack([*measured.values(), energy.expand(3)]).tolist()
    E = {layer: values[0] for layer, values in zip(measured, found, strict=False)}
    least = {layer: ALIKE * max(values[1:]) for layer, values in zip(measured, found, strict=False)}
    floored = {layer: max(E[layer], least[layer]) for layer in E}
    w = _layer_weights(settings, filters, floored)
    alpha = settings.content_weight
    whole = losses.style_loss(floored, w) or 1.0
    if settings.content_weight_unit == "relative":
        alpha *= whole / (found[-1][0] or 1.0)
    return LossWeights(
        alpha=alpha,
        beta=settings.style_weight,
        w=w,
        tv=settings.style_weight * settings.tv_weight * whole / content_image.numel(),
        layers={f"style.{layer}": E[layer] for layer in settings.style_layers},
    )


def _layer_weights(
    settings: StyleSettings, filters: dict[str, int], at_content: dict[str, float]
) -> dict[str, float]:
    """w_l of each style layer, from N_l and from E_l of the content image, never 0."""
    chosen, layers = settings.style_layer_weights, settings.style_layers
    if chosen == "balanced":
        return {layer: 1 / (len(layers) * max(at_content[layer], 1e-30)) for layer in layers}
    if chosen == "authors":
        return {layer: 1 / filters[layer] ** 2 for layer in layers}
    if chosen == "equal":
        return {layer: 1 / len(layers) for layer in layers}
    return dict(zip(layers, chosen, strict=True))
