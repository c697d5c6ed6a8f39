"""What a trained VGG sees in a picture: how much style it has, and how much content is left.

A loss can also fall because of specks that only its own network takes for style. So another network
judges, or the same one without rescaled activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style import recipe
from pipeline.style.method import losses
from pipeline.style.method.color import RGB_TO_YIQ
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import read_weights

BLUR = 1.5
"""Standard deviation in pixels of the Gaussian that separates coarse from fine chroma."""

WORST = 0.99
"""Quantile of the pixels' fine chroma that counts as an image's."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one picture.

    Attributes:
        layers: E_l(picture) / E_l(content image) of each style layer.
        content: L_content over half the sum of the squares of P^l.
        specks: fine chroma of the picture over that of the content or the style image, whichever
            has more; above 1 there is colour noise that neither has.
    """

    layers: dict[str, float]
    content: float
    specks: float

    @property
    def share(self) -> float:
        """The judge's share: the mean of ``layers``."""
        return sum(self.layers.values()) / len(self.layers)


@dataclass(frozen=True)
class Judge:
    """A network without rescaled activations.

    Attributes:
        network: with the weights as they are in their file.
        digest: SHA-256 of the weights.
        settings: name the weights and the layers.
    """

    network: VGG
    digest: str
    settings: StyleSettings


def load_judge(source: str) -> Judge:
    """Return the judge with the weights ``source``, any value of the setting ``weights``.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    settings = StyleSettings(weights=source)
    state, digest = read_weights(settings)
    return Judge(VGG(state, deepest_layer=settings.deepest_layer), digest, settings)


@torch.no_grad()
def judged(
    judge: Judge, content: Tensor, style: Tensor, pictures: Sequence[Tensor]
) -> list[Verdict]:
    """Return a verdict for each picture.

    Args:
        judge: the network.
        content: content image (3, H, W) in [0, 1].
        style: style image (3, H', W') in [0, 1].
        pictures: (3, H, W) in [0, 1]; judged as a file holds them, rounded to 1/255.
    """
    settings = judge.settings
    wanted = {*settings.style_layers, *settings.content_layers}

    def seen(image: Tensor) -> dict[str, Tensor]:
        activations: dict[str, Tensor] = judge.network(image[None], wanted)
        return activations

    A = {}
    for layer, F_l in seen(style).items():
        A[layer] = losses.gram_matrix(F_l) / F_l[0, 0].numel()
    P = seen(content)

    def style_losses(F_l: dict[str, Tensor]) -> dict[str, float]:
        return {
            layer: float(losses.layer_style_loss(F_l[layer], A[layer] * F_l[layer][0, 0].numel()))
            for layer in settings.style_layers
        }

    begun = style_losses(P)
    verdicts = []
    for picture in pictures:
        rounded = (picture * 255).round() / 255
        found = seen(rounded)
        ended = style_losses(found)
        distance = energy = 0.0
        for layer in settings.content_layers:
            distance += float((found[layer] - P[layer]).square().sum())
            energy += float(P[layer].square().sum())
        verdicts.append(
            Verdict(
                layers={layer: ended[layer] / begun[layer] for layer in begun},
                content=distance / energy,
                specks=fine_chroma(rounded) / max(fine_chroma(content), fine_chroma(style)),
            )
        )
    return verdicts


def fine_chroma(image: Tensor) -> float:
    """Return how much a blur takes from the colours I and Q of an image (3, H, W) in [0, 1].

    The 99th percentile over the pixels, as specks cover few of them.
    """
    chroma = torch.einsum("ij,jhw->ihw", torch.tensor(RGB_TO_YIQ).to(image)[1:], image)[:, None]
    reach = round(3 * BLUR)
    bell = torch.exp(-(torch.arange(-reach, reach + 1).to(image) ** 2) / (2 * BLUR**2))
    bell = bell / bell.sum()
    around = F.pad(chroma, (reach,) * 4, mode="reflect")
    coarse = F.conv2d(F.conv2d(around, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    return float(np.quantile((chroma - coarse).square().sum(dim=0).sqrt().numpy(), WORST))


def read_square(source: Path | Image.Image, size: int) -> Tensor:
    """Return the middle square of a picture as (3, size, size), RGB in [0, 1].

    Args:
        source: a file, or an image.
        size: edge of the result in pixels.
    """
    image = Image.open(source) if isinstance(source, Path) else source
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return recipe.to_tensor(np.asarray(square))


def to_image(picture: Tensor) -> Image.Image:
    """Return a picture (3, H, W) in [0, 1] as an image."""
    return Image.fromarray(recipe.to_pixels(picture))
