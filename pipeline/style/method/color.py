"""Colour transfer between images, to keep the content image's colours.

Source: Gatys, Bethge, Hertzmann, Shechtman, "Preserving Color in Neural Artistic Style Transfer",
arXiv 1606.05897. Images are (3, H, W), RGB in [0, 1]. Results are clamped to [0, 1], except
``luminance``, which needs no clamping.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RGB_TO_YIQ = (
    (0.299, 0.587, 0.114),
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)
"""Matrix from RGB to YIQ (NTSC): luminance Y and the two colour channels I and Q."""

FAINT = (4 / 255) ** 2
"""Variance of colours along an axis below which ``recolor`` does not stretch them further."""

TINY = 1e-8
"""Variance added to colours along each axis, so that matrix roots exist for a single colour."""


def _to_yiq(image: Tensor) -> Tensor:
    return torch.einsum("ij,jhw->ihw", torch.tensor(RGB_TO_YIQ).to(image), image)


def _to_rgb(image: Tensor) -> Tensor:
    inverse = torch.linalg.inv(torch.tensor(RGB_TO_YIQ, dtype=torch.float64)).to(image)
    return torch.einsum("ij,jhw->ihw", inverse, image)


def luminance(image: Tensor) -> Tensor:
    """Return the luminance Y, repeated over three channels, (3, H, W)."""
    return _to_yiq(image)[:1].expand(3, -1, -1).contiguous()


def match_luminance(style_image: Tensor, content_image: Tensor) -> Tensor:
    """Return the style's luminance with the mean and deviation of the content's.

    Section 4, equation 10 of the source. Three equal channels (3, H, W).
    """
    style, content = luminance(style_image), luminance(content_image)
    deviation = style.std(correction=0).clamp_min(1e-6)
    matched = (style - style.mean()) * (content.std(correction=0) / deviation) + content.mean()
    return matched.clamp(0, 1)


def restore_color(stylized: Tensor, content_image: Tensor) -> Tensor:
    """Return the luminance of ``stylized`` with the content's colours I and Q, (3, H, W).

    Both images have the same size.
    """
    yiq = torch.cat([_to_yiq(stylized)[:1], _to_yiq(content_image)[1:]])
    return _to_rgb(yiq).clamp(0, 1)


def match_color(style_image: Tensor, content_image: Tensor) -> Tensor:
    """Return the style image with the mean and covariance of the content's colours.

    Section 3, equations 4 to 8 of the source. The transform is the symmetric one of Image
    Analogies, C_content^(1/2) C_style^(-1/2).
    """
    content = content_image.flatten(1).double()
    covariance = torch.cov(content, correction=0)
    return _with_colors(style_image, content.mean(dim=1), covariance, TINY)


def recolor(image: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return an image (3, H, W) with another mean (3,) and covariance (3, 3) of its colours.

    This is ``match_color`` with a limit: colours that vary less than ``FAINT`` are stretched as if
    they varied that much. In a grey photograph they are compression noise.
    """
    return _with_colors(image, mean.double(), covariance.double(), FAINT)


def _with_colors(image: Tensor, mean: Tensor, covariance: Tensor, least: float) -> Tensor:
    """Return the image with these statistics; ``least`` limits its own variance from below."""
    colors = image.flatten(1).double()
    eye = TINY * torch.eye(3, dtype=torch.float64, device=colors.device)
    roots = []
    for matrix, power, floor in (
        (covariance, 0.5, TINY),
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
    """Return the content image and the style images as the network is to see them.

    Args:
        content_image: (3, H, W).
        style_images: each (3, H', W').
        mode: the setting ``preserve_color``: ``luminance``, ``histogram`` or ``none``.
    """
    if mode == "luminance":
        styles = [match_luminance(style, content_image) for style in style_images]
        return luminance(content_image), styles
    if mode == "histogram":
        return content_image, [match_color(style, content_image) for style in style_images]
    return content_image, list(style_images)


def finish_colors(stylized: Tensor, content_image: Tensor, mode: str) -> Tensor:
    """Return the result (3, H, W), with the content's colours if ``mode`` is ``luminance``.

    Args:
        stylized: what the optimiser found for the images of ``prepare_colors``.
        content_image: the original content image, of the same size.
        mode: the setting ``preserve_color``.
    """
    return restore_color(stylized, content_image) if mode == "luminance" else stylized
