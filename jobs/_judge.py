"""What a trained VGG sees in a picture: how much style has come, and how much content stayed.

A loss can also fall by specks that only the network behind it takes for style. So another network
judges, or the same one with its activations as they are.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.color import RGB_TO_YIQ
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weights import read_weights

BLUR = 1.5
"""Deviation of the Gaussian between coarse and fine chroma, in pixels."""

WORST = 0.99
"""Quantile of the pixels at which specks are measured."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one picture.

    layers: E_l(picture) / E_l(content image) of each style layer. content: L_content over the half
    square sum of P^l. specks: fine chroma of the picture over that of the content or the style,
    whichever has more; above 1 there is colour noise that neither has.
    """

    layers: dict[str, float]
    content: float
    specks: float

    @property
    def share(self) -> float:
        """Mean of ``layers``: the judge's share."""
        return sum(self.layers.values()) / len(self.layers)


@dataclass(frozen=True)
class Judge:
    """A network with its activations as they are, and the digest of its weights."""

    network: VGG
    digest: str
    settings: StyleSettings


def load_judge(source: str) -> Judge:
    """The judge with the weights ``source``, any value of the setting ``weights``.

    Raises:
        WeightsError: they cannot be had or do not fit.
    """
    settings = StyleSettings(weights=source)
    state, digest = read_weights(settings)
    return Judge(VGG(state, deepest_layer=settings.deepest_layer), digest, settings)


@torch.no_grad()
def judged(
    judge: Judge, content: Tensor, style: Tensor, pictures: Sequence[Tensor]
) -> list[Verdict]:
    """A verdict for each picture, (3, H, W) as the content image; the style may have another size.

    Pictures are judged as a file holds them, rounded to 1/255.
    """
    settings = judge.settings
    wanted = {*settings.style_layers, *settings.content_layers}

    def seen(image: Tensor) -> dict[str, Tensor]:
        return judge.network(image[None], wanted)

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
    """What a blur takes from the colours I and Q of an image (3, H, W), where it takes most."""
    chroma = torch.einsum("ij,jhw->ihw", torch.tensor(RGB_TO_YIQ).to(image)[1:], image)[:, None]
    reach = round(3 * BLUR)
    bell = torch.exp(-(torch.arange(-reach, reach + 1).to(image) ** 2) / (2 * BLUR**2))
    bell = bell / bell.sum()
    around = F.pad(chroma, (reach,) * 4, mode="reflect")
    coarse = F.conv2d(F.conv2d(around, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))
    return float(np.quantile((chroma - coarse).square().sum(dim=0).sqrt().numpy(), WORST))


def read_square(source: Path | bytes, size: int) -> Tensor:
    """The middle square of a picture's file as (3, size, size), RGB in [0, 1]."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def to_image(picture: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] as an image."""
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())
