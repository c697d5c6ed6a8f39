"""alpha, beta and w_l: the weights of a pair's loss, chosen from its own images.

The paper leaves alpha, beta and w_l open (arXiv 1508.06576, equations 5 and 7). With equal w_l the
layer with the largest activations makes up nine tenths of the style loss, and the alpha that keeps
the content visible depends on the network and the image size. So the settings are shares, and
``loss_weights`` turns them into alpha and w_l by means of the content image's losses.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.targets import StyleTarget
from pipeline.style.network.vgg import VGG

ALIKE = 0.01
"""Lower limit of the content image's E_l in the balance, as a fraction.

The reference is E_l with an all-zero Gram matrix in place of one image's, the larger of the two.
Below the limit content and style are alike in this layer, and there is nothing to balance."""

SILENT = 1e-3
"""Lower limit of the mean square of the content image's activations in the balance.

In a normalised network the mean square is of order 1."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of one pair's loss at one image size.

    Attributes:
        alpha: the weight of L_content (equation 7).
        beta: the weight of L_style (equation 7).
        w: style layer to its w_l (equation 5).
        tv: the weight of the total variation.
        layers: the content image's E_l in each style layer (``style.conv1_1``), without weights.
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
    """Return alpha, beta and w_l for a content image and a target of its size.

    With ``style_layer_weights`` = ``balanced``, w_l E_l at the content image is the same in each
    layer, and their sum is 1. A relative ``content_weight`` is a share of that sum: alpha L_content
    reaches this share where F^l differs from P^l by as much as P^l differs from 0.

    Args:
        network: VGG.
        content_image: (3, H, W), RGB in [0, 1].
        target: what the style images ask for at this size.
        settings: the layers and the shares.
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
            A = target.grams[layer][None]  # per position
            nothing = torch.zeros_like(A)
            filters[layer] = N
            # E_l of the content image, then E_l with zeros in place of A, then in place of G.
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
    """Return w_l of each style layer.

    Args:
        settings: how they are chosen, or the numbers themselves.
        filters: style layer to N_l.
        at_content: style layer to the content image's E_l, not below its limit.
    """
    chosen, layers = settings.style_layer_weights, settings.style_layers
    if chosen == "balanced":
        return {layer: 1 / (len(layers) * max(at_content[layer], 1e-30)) for layer in layers}
    if chosen == "authors":
        return {layer: 1 / filters[layer] ** 2 for layer in layers}
    if chosen == "equal":
        return {layer: 1 / len(layers) for layer in layers}
    return dict(zip(layers, chosen, strict=True))
