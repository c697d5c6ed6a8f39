"""The loop that PyTorch's tutorial teaches, and the losses that it can lower."""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.method import losses
from pipeline.style.method.balance import LossWeights
from pipeline.style.network.vgg import VGG

Activations = dict[str, Tensor]
"""Layer to F^l (1, N_l, H_l, W_l)."""

PlainLoss = Callable[[Activations, Activations, Activations], Tensor]
"""The loss, given the activations of the image, of the content image and of the style image."""


def our_loss(weights: LossWeights, settings: StyleSettings) -> PlainLoss:
    """Return this program's loss, without its total variation, for autograd.

    It is multiplied by 1e6 and so as large as the tutorial's: torch's L-BFGS stops at absolute
    tolerances.
    """

    def loss(F_l: Activations, P: Activations, S: Activations) -> Tensor:
        content = [losses.content_loss(F_l[k], P[k]).sum() for k in settings.content_layers]
        E = {}
        for k in weights.w:
            A = losses.gram_matrix(S[k]) * (F_l[k][0, 0].numel() / S[k][0, 0].numel())
            E[k] = losses.layer_style_loss(F_l[k], A).sum()
        L_content, L_style = torch.stack(content).sum(), losses.style_loss(E, weights.w)
        return 1e6 * losses.total_loss(L_content, L_style, weights.alpha, weights.beta)

    return loss


def tutorial_loss(settings: StyleSettings) -> PlainLoss:
    """Return the loss of PyTorch's tutorial.

    Gram matrices are divided by N M, squares are averaged, and the weights are 1 and 1e6.
    """
    mse = torch.nn.functional.mse_loss

    def loss(F_l: Activations, P: Activations, S: Activations) -> Tensor:
        def gram(F: Tensor) -> Tensor:
            return losses.gram_matrix(F) / F[0].numel()

        content = [mse(F_l[k], P[k]) for k in settings.content_layers]
        style = [mse(gram(F_l[k]), gram(S[k])) for k in settings.style_layers]
        return torch.stack(content).sum() + 1e6 * torch.stack(style).sum()

    return loss


def plain_loop(
    network: VGG,
    content: Tensor,
    style: Tensor,
    settings: StyleSettings,
    evaluations: int,
    loss_of: PlainLoss,
    seen: Callable[[int, Tensor], None] = lambda count, image: None,
) -> tuple[list[float], list[float]]:
    """Run the loop that PyTorch's tutorial teaches: one image, autograd, ``torch.optim.LBFGS``.

    It uses PyTorch's default memory format and a ReLU that is not in place. The image is clamped
    before each evaluation.

    Args:
        network: in float32, on the device to be used.
        content: content image (3, H, W) in [0, 1].
        style: style image (3, H', W') in [0, 1].
        settings: tell which layers the loss reads.
        evaluations: fewest evaluations; the last call of L-BFGS may add some.
        loss_of: the loss.
        seen: called after each evaluation with their count and the image; its time does not count.

    Returns:
        The loss of each evaluation, and the seconds from the start to its end.
    """
    features = copy.deepcopy(network.features).to(memory_format=torch.contiguous_format)
    mean, std = (network.get_buffer(name).to(content) for name in ("mean", "std"))

    def activations(x: Tensor) -> dict[str, Tensor]:
        x = (x - mean) / std
        found = {}
        names = iter(network.layers)
        for module in features:
            if isinstance(module, torch.nn.ReLU):
                x = found[next(names)] = torch.nn.functional.relu(x)
            else:
                x = module(x)
        return found

    with torch.no_grad():
        P, S = activations(content[None]), activations(style[None])
    image = content[None].clone(memory_format=torch.contiguous_format).requires_grad_(True)
    optimizer = torch.optim.LBFGS([image])
    trace: list[float] = []
    seconds: list[float] = []
    started = time.perf_counter()

    def closure() -> float:
        nonlocal started
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = loss_of(activations(image), P, S)
        loss.backward()  # type: ignore[no-untyped-call]
        trace.append(float(loss.detach()))
        now = time.perf_counter()
        seconds.append(now - started)
        seen(len(trace), image.detach()[0])
        started += time.perf_counter() - now
        return float(loss.detach())

    while len(trace) < evaluations:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return trace, seconds
