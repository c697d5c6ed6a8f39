"""The paper's losses (Gatys, Ecker, Bethge, arXiv 1508.06576, equations 1 to 7), per sample.

F^l in R^(N_l x M_l): rectified activations of the generated image in layer l, here (B, N, H, W)
with N = N_l filters and M_l = H * W positions. P^l: the content image's. A^l: the style image's
Gram matrix. Each function gives one number per sample, (B,).
"""

import contextlib
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.convolution import in_tf32

POSITIONS = 2048
"""That one part of a Gram matrix's sum has on a GPU, at least."""


def gram_matrix(features: Tensor) -> Tensor:
    """Equation 3: G_ij = sum_k F_ik F_jk, not divided by anything. (B, N, H, W) -> (B, N, N).

    Half precision is widened to float32 first: float16 sums over positions overflow.
    """
    F = _wide(features).flatten(2)  # (B, N, M)
    return F @ F.transpose(1, 2)


def content_loss(features: Tensor, content_features: Tensor) -> Tensor:
    """Equation 1: L_content = 1/2 sum_ij (F_ij - P_ij)^2. Two (B, N, H, W) -> (B,)."""
    return 0.5 * (_wide(features) - _wide(content_features)).square().flatten(1).sum(dim=1)


def add_content_gradient(
    features: Tensor, content_features: Tensor, weight: Tensor, gradient: Tensor
) -> Tensor:
    """L_content, (B,); ``weight`` times its gradient is added to ``gradient`` in place.

    Equation 2: dL_content/dF = F - P where F > 0; the ReLU's own way back gives the else.

    Args:
        features, content_features: F and P (B, N, H, W) in channels_last format.
        weight: alpha of each sample (B,).
        gradient: (B, N, H, W) in channels_last format.
    """
    difference = features - content_features
    gradient.addcmul_(difference, weight.to(features).view(-1, 1, 1, 1))
    rows = difference.permute(0, 2, 3, 1).reshape(len(difference), -1)
    wide = torch.promote_types(features.dtype, torch.float32)
    distance: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
    return 0.5 * distance.square()


def style_loss(features: Tensor, style_gram: Tensor) -> Tensor:
    """Equation 4: E_l = 1/(4 N_l^2 M_l^2) sum_ij (G_ij - A_ij)^2. -> (B,).

    Args:
        features: F (B, N, H, W).
        style_gram: A (B, N, N) for M = H * W positions; the Gram matrix of a style image with M'
            positions is to be multiplied by M / M' first.
    """
    N, M = features.shape[1], features.shape[2] * features.shape[3]
    # Divided before it is squared, so that float32 holds it at any size: (G - A)/M is of order 1.
    difference = (gram_matrix(features) - style_gram) / M
    return difference.square().flatten(1).sum(dim=1) / (4 * N**2)


def add_style_gradient(
    features: Tensor, gram_per_position: Tensor, weight: Tensor, gradient: Tensor
) -> tuple[Tensor, bool]:
    """E_l, (B,); ``weight`` times its gradient is added to ``gradient`` in place.

    Equation 6: dE_l/dF = 1/(N_l^2 M_l^2) (G - A) F where F > 0; the ReLU's own way back, which
    follows, gives the else. Where that is one pass with this, it is done, too, and the answer's
    second part is True.

    Args:
        features: F (B, N, H, W) in channels_last format.
        gram_per_position: A / M (B, N, N).
        weight: beta w_l of each sample (B,).
        gradient: (B, N, H, W) in channels_last format.
    """
    B, N, H, W = features.shape
    F_t = features.permute(0, 2, 3, 1).reshape(B, H * W, N)
    D = _gram_of_rows(F_t).div_(H * W).sub_(gram_per_position)  # (G - A) / M
    E = D.square().flatten(1).sum(dim=1) / (4 * N**2)
    D = (D * (weight / (N**2 * H * W)).view(B, 1, 1)).to(features)
    # G - A is symmetric: F^T (G - A) is the transpose of (G - A) F.
    gradient_t = gradient.permute(0, 2, 3, 1).view(B, H * W, N)
    if gpu_passes.style_backward(F_t, D, gradient_t):
        return E, True
    with _products_as_convolutions(F_t):
        gradient_t.baddbmm_(F_t, D)
    return E, False


_switching = threading.Lock()


@contextlib.contextmanager
def _products_as_convolutions(x: Tensor) -> Iterator[None]:
    """Matrix products of float32 ``x`` on a GPU in TF32 where its convolutions are, as by default.

    For a gradient, that is: of a loss, whose differences are small, the products stay as they are.
    The switch is the process's, so that one thread at a time has it.
    """
    with contextlib.ExitStack() as stack:
        if x.is_cuda and x.dtype == torch.float32:
            stack.enter_context(_switching)
            # Raises where the process has set precisions by PyTorch's newer switches: they hold.
            with contextlib.suppress(RuntimeError):
                before = torch.get_float32_matmul_precision()
                if in_tf32():
                    torch.set_float32_matmul_precision("high")
                    stack.callback(torch.set_float32_matmul_precision, before)
        yield


def _gram_of_rows(F_t: Tensor) -> Tensor:
    """G (B, N, N) = F F^T for F_t (B, M, N), added up in float32 or wider."""
    if not F_t.is_cuda:
        wide = _wide(F_t)
        return torch.bmm(wide.transpose(1, 2), wide)
    M = F_t.shape[1]
    return _gram_in_parts(F_t, math.gcd(M, 1 << (M // POSITIONS | 1).bit_length() - 1))


def _gram_in_parts(F_t: Tensor, parts: int) -> Tensor:
    """The same; a GPU has work for all its processors only if a long sum is cut into parts."""
    B, M, N = F_t.shape
    rows = F_t.reshape(B * parts, M // parts, N)
    columns = rows.transpose(1, 2)
    if F_t.itemsize < 4 and torch.version.hip is None:  # ROCm's products are as wide as factors
        products = torch.bmm(columns, rows, out_dtype=torch.float32)
    else:
        products = torch.bmm(_wide(columns), _wide(rows))
    return products.view(B, parts, N, N).sum(dim=1)


def tv_loss(images: Tensor) -> Tensor:
    """Total variation: squared differences of neighbouring pixels. (B, 3, H, W) -> (B,).

    Not in the paper; after Mahendran and Vedaldi, arXiv 1412.0035, with beta = 2.
    """
    across = (images[..., :, 1:] - images[..., :, :-1]).square().flatten(1).sum(dim=1)
    down = (images[..., 1:, :] - images[..., :-1, :]).square().flatten(1).sum(dim=1)
    return across + down


def tv_gradient(images: Tensor) -> Tensor:
    """The gradient of ``tv_loss``, (B, 3, H, W)."""
    gradient = torch.zeros_like(images)
    across = 2 * (images[..., :, 1:] - images[..., :, :-1])
    down = 2 * (images[..., 1:, :] - images[..., :-1, :])
    gradient[..., :, 1:] += across
    gradient[..., :, :-1] -= across
    gradient[..., 1:, :] += down
    gradient[..., :-1, :] -= down
    return gradient


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.itemsize < 4 else x
