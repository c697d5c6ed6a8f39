"""Keeping the content's colours, and giving a picture another's.

Source: Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer",
arXiv 1606.05897. Images are (3, H, W), RGB in [0, 1].
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RGB_TO_YIQ = (
    (0.299, 0.587, 0.114),
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)

FAINT = (4 / 255) ** 2
"""Variance of colours along an axis below which ``recolor`` stretches them no further."""


def _to_yiq(image: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", torch.tensor(RGB_TO_YIQ).to(image), image)


def _to_rgb(image: Tensor) -> Tensor:
    inverse = torch.linalg.inv(torch.tensor(RGB_TO_YIQ, dtype=torch.float64)).to(image)
    return torch.einsum("ij,jhw->ihw", inverse, image)


def luminance(image: Tensor) -> Tensor:
    """Y of YIQ, repeated over three channels. (3, H, W) -> (3, H, W)."""
    return _to_yiq(image)[:1].expand(3, -1, -1).contiguous()


def match_luminance(style_image: Tensor, content_image: Tensor) -> Tensor:
    """The style's luminance with the mean and deviation of the content's (section 4, eq. 10)."""
    style, content = luminance(style_image), luminance(content_image)
    deviation = style.std(correction=0).clamp_min(1e-6)
    matched = (style - style.mean()) * (content.std(correction=0) / deviation) + content.mean()
    return matched.clamp(0, 1)


def restore_color(stylized: Tensor, content_image: Tensor) -> Tensor:
    """The luminance of ``stylized`` with the content's colours I and Q; both (3, H, W)."""
    yiq = torch.cat([_to_yiq(stylized)[:1], _to_yiq(content_image)[1:]])
    return _to_rgb(yiq).clamp(0, 1)


def match_color(style_image: Tensor, content_image: Tensor) -> Tensor:
    """The style image with mean and covariance of the content's colours (section 3, eq. 4 to 8).

    The transform is the symmetric one of Image Analogies: C_content^(1/2) C_style^(-1/2).
    """
    content = content_image.flatten(1).double()
    return _moved(style_image, content.mean(dim=1), torch.cov(content, correction=0), 1e-8)


def recolor(image: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """An image (3, H, W) with a mean (3,) and covariance (3, 3) of another's colours.

    As ``match_color``, but colours that hardly vary are not stretched beyond what ``FAINT`` would
    be: in a grey photograph they are a compression's noise.
    """
    return _moved(image, mean.double(), covariance.double(), FAINT)


def _moved(image: Tensor, mean: Tensor, covariance: Tensor, least: float) -> Tensor:
    colors = image.flatten(1).double()
    eye = 1e-8 * torch.eye(3, dtype=torch.float64, device=colors.device)
    roots = []
    for matrix, power, floor in (
        (covariance, 0.5, 1e-8),
        (torch.cov(colors, correction=0), -0.5, least),
    ):
        values, vectors = torch.linalg.eigh(matrix + eye)
        roots.append(vectors @ torch.diag(values.clamp_min(floor) ** power) @ vectors.T)
    centred = colors - colors.mean(dim=1, keepdim=True)
    moved: Tensor = roots[0] @ roots[1] @ centred + mean[:, None]
    return moved.to(image).view_as(image).clamp(0, 1)


def prepare_colors(
    content_image: Tensor, style_images: Sequence[Tensor], mode: str
) -> tuple[Tensor, list[Tensor]]:
    """Content (3, H, W) and styles as the network is to see them, for ``preserve_color``."""
    if mode == "luminance":
        styles = [match_luminance(style, content_image) for style in style_images]
        return luminance(content_image), styles
    if mode == "histogram":
        return content_image, [match_color(style, content_image) for style in style_images]
    return content_image, list(style_images)


def finish_colors(stylized: Tensor, content_image: Tensor, mode: str) -> Tensor:
    """The result (3, H, W) with the content's colours, where ``preserve_color`` asks for them."""
    return restore_color(stylized, content_image) if mode == "luminance" else stylized
