"""The paper's losses, equation by equation (Gatys, Ecker, Bethge, arXiv 1508.06576).

    L_content  equation 1  content_loss; its gradient, equation 2, is content_gradient
    G          equation 3  gram_matrix
    E_l        equation 4  layer_style_loss; its gradient, equation 6, is layer_style_gradient
    L_style    equation 5  style_loss
    L_total    equation 7  total_loss

F is F^l, the rectified activations of the generated image in layer l, here (B, N, H, W) for B
images, N = N_l filters and M = M_l = H * W positions. P is P^l, the content image's activations.
A is A^l, the style image's Gram matrix (B, N, N). ``balance.py`` chooses alpha, beta and the w_l.

These plain forms can be differentiated by autograd. The optimiser runs ``add_content_gradient`` and
``add_style_gradient`` instead, which give the loss together with its gradient in closed form. A
test compares the two (tests/style/method/test_losses.py). ``objective.py`` adds them up.
"""

from collections.abc import Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor

from pipeline.style.hardware.products import add_product_and_rectify, gram_of_rows, widen

Loss = TypeVar("Loss", float, Tensor)
"""A loss of one image, or one for each image of a batch (B,)."""

# ------------------------------------------------------------------ content: equations 1 and 2


def content_loss(F: Tensor, P: Tensor) -> Tensor:
    """Return L_content = 1/2 sum_ij (F_ij - P_ij)^2 (equation 1).

    Args:
        F: the generated image's activations (B, N, H, W).
        P: the content image's activations (B, N, H, W).

    Returns:
        L_content (B,), in float32 or wider.
    """
    return 0.5 * (widen(F) - widen(P)).square().flatten(1).sum(dim=1)


def content_gradient(F: Tensor, P: Tensor) -> Tensor:
    """Return dL_content/dF = F - P where F > 0, else 0 (equation 2), (B, N, H, W)."""
    return torch.where(F > 0, F - P, 0)


def add_content_gradient(F: Tensor, P: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """Add the weighted gradient of L_content to ``gradient`` in place, and return L_content.

    This is what the optimiser runs for equations 1 and 2. The zeros of equation 2 are left to the
    ReLU's backward pass, which follows once all losses of the layer are added.

    Args:
        F: the generated image's activations (B, N, H, W), in channels_last format.
        P: the content image's activations (B, N, H, W), in channels_last format.
        weight: alpha of each image (B,).
        gradient: the gradient at F from the layers above (B, N, H, W), in channels_last format.

    Returns:
        L_content (B,), without the weight.
    """
    difference = F - P
    gradient.addcmul_(difference, weight.to(F).view(-1, 1, 1, 1))
    rows = difference.permute(0, 2, 3, 1).reshape(len(difference), -1)
    wide = torch.promote_types(F.dtype, torch.float32)
    distance: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
    return 0.5 * distance.square()


# ------------------------------------------------------------------ style: equations 3 to 6


def gram_matrix(F: Tensor) -> Tensor:
    """Return G_ij = sum_k F_ik F_jk (equation 3), not divided by anything.

    16-bit activations are converted to float32 first, because float16 sums overflow.

    Args:
        F: activations (B, N, H, W).

    Returns:
        G (B, N, N), in float32 or wider.
    """
    rows = widen(F).flatten(2)  # (B, N, M)
    return rows @ rows.transpose(1, 2)


def layer_style_loss(F: Tensor, A: Tensor) -> Tensor:
    """Return E_l = 1/(4 N_l^2 M_l^2) sum_ij (G_ij - A_ij)^2 (equation 4).

    Args:
        F: the generated image's activations (B, N, H, W).
        A: the style image's Gram matrix (B, N, N) over M = H * W positions. Multiply the Gram
            matrix of a style image with M' positions by M / M' first.

    Returns:
        E_l (B,), in float32 or wider.
    """
    N, M = F.shape[1], F.shape[2] * F.shape[3]
    # Divide by M before squaring: (G - A) / M is of order 1, so float32 holds it at any image size.
    difference = (gram_matrix(F) - A) / M
    return difference.square().flatten(1).sum(dim=1) / (4 * N**2)


def style_loss(E: Mapping[str, Loss], w: Mapping[str, float]) -> Loss:
    """Return L_style = sum_l w_l E_l (equation 5).

    Args:
        E: each layer's E_l.
        w: the weight w_l of each layer that counts.
    """
    return cast(Loss, sum(w[layer] * E[layer] for layer in w))


def layer_style_gradient(F: Tensor, A: Tensor) -> Tensor:
    """Return dE_l/dF = 1/(N_l^2 M_l^2) (G - A) F where F > 0, else 0 (equation 6).

    Args:
        F: the generated image's activations (B, N, H, W).
        A: the style image's Gram matrix (B, N, N), see ``layer_style_loss``.

    Returns:
        the gradient (B, N, H, W).
    """
    N, M = F.shape[1], F.shape[2] * F.shape[3]
    gradient = (gram_matrix(F) - A) @ F.flatten(2) / (N**2 * M**2)
    return torch.where(F > 0, gradient.view_as(F), 0)


def add_style_gradient(
    F: Tensor, A_per_position: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the weighted gradient of E_l to ``gradient`` and apply the ReLU's backward pass.

    This is what the optimiser runs for equations 4 and 6.

    Args:
        F: the generated image's activations (B, N, H, W), in channels_last format.
        A_per_position: A / M (B, N, N).
        weight: beta w_l of each image (B,).
        gradient: the gradient at F from the layers above and from the content loss (B, N, H, W),
            in channels_last format. It is overwritten.

    Returns:
        E_l (B,) without the weight, and ``gradient + weight * dE_l/dF`` where F > 0, else 0.
    """
    B, N, H, W = F.shape
    D = gram_of_rows(F.permute(0, 2, 3, 1).reshape(B, H * W, N))
    D = D.div_(H * W).sub_(A_per_position)  # (G - A) / M
    E = D.square().flatten(1).sum(dim=1) / (4 * N**2)
    D = (D * (weight / (N**2 * H * W)).view(B, 1, 1)).to(F)
    return E, add_product_and_rectify(F, D, gradient)


# ------------------------------------------------------------------ total: equation 7


def total_loss(L_content: Loss, L_style: Loss, alpha: float, beta: float) -> Loss:
    """Return L_total = alpha L_content + beta L_style (equation 7)."""
    return alpha * L_content + beta * L_style


# ------------------------------------------------------------------ not in the paper


def tv_loss(images: Tensor) -> Tensor:
    """Return the total variation: the sum of squared differences of neighbouring pixels.

    Source: Mahendran and Vedaldi, arXiv 1412.0035, with their beta = 2.

    Args:
        images: (B, 3, H, W).

    Returns:
        the total variation (B,).
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).square().flatten(1).sum(dim=1)
    return across + down


def add_tv_gradient(images: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
    """Add the weighted gradient of ``tv_loss`` to ``gradient`` in place, and return the loss.

    Args:
        images: (B, 3, H, W).
        weight: of each image (B,).
        gradient: (B, 3, H, W).

    Returns:
        the total variation (B,), without the weight.
    """
    total = torch.zeros_like(weight)
    for dim in (2, 3):
        difference = images.diff(dim=dim)
        total += torch.linalg.vector_norm(difference.flatten(1), dim=1).square()
        difference *= 2 * weight.view(-1, 1, 1, 1)
        gradient.narrow(dim, 1, difference.shape[dim]).add_(difference)
        gradient.narrow(dim, 0, difference.shape[dim]).sub_(difference)
    return total
