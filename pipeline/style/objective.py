"""The loss of a batch and its gradient, by hand: no autograd, nothing is kept that is not needed.

The weights are frozen and every loss reads an activation that lies there anyway, so that the way
back is a short loop: what a layer's losses ask of F^l, the ReLU's zeros, the convolution's adjoint.
Nothing here asks the device for a value; a CUDA graph can hold an evaluation.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.settings import StyleSettings
from pipeline.style import losses
from pipeline.style.convolution import activate, convolve_back
from pipeline.style.targets import StyleTarget
from pipeline.style.vgg import VGG, Block
from pipeline.style.winograd import transforms

aten = torch.ops.aten


@dataclass(frozen=True)
class Terms:
    """The parts of a loss, with their weights; layers: E_l (``style.<layer>``) and L_content
    (``content.<layer>``) of each layer, without weights."""

    content: float
    style: float
    tv: float
    layers: dict[str, float]


class Objective:
    """alpha L_content + beta L_style (+ tv) of B slots of one size (paper, equation 7).

    Args:
        network: its floating-point type is the one that the convolutions run in.
        slots: B; each is empty, of zero loss, until ``put`` fills it.
        settings: gives the layers, w_l and the total variation's weight.
        low_memory: keep only the blocks' inputs and compute a block's activations again on the way
            back: a third more time, a third of the memory.
    """

    def __init__(
        self, network: VGG, slots: int, settings: StyleSettings, *, low_memory: bool = False
    ) -> None:
        self.network, self.slots, self.settings = network, slots, settings
        self.low_memory = low_memory
        self.fast = transforms(network)
        self.w = {layer: w for layer, w in settings.w.items() if w > 0}
        wide = torch.promote_types(network.dtype, torch.float32)
        self.alpha = torch.zeros(slots, device=network.device, dtype=wide)
        self.beta = torch.zeros_like(self.alpha)
        self.A: dict[str, Tensor] = {}  # layer to A^l / M^l (B, N, N)
        self.P: dict[str, Tensor] = {}  # layer to P^l (B, N, H, W)

    @torch.no_grad()
    def put(
        self, slot: int, content: Tensor, target: StyleTarget, alpha: float, beta: float
    ) -> None:
        """Fill a slot: content (3, H, W) in [0, 1], of the same size in every slot."""
        found = self.network(content[None], self.settings.content_layers)
        for layer, features in found.items():
            if layer not in self.P:
                self.P[layer] = torch.zeros_like(features.expand(self.slots, -1, -1, -1))
            self.P[layer][slot] = features[0]
        for layer in self.w:
            gram = target.grams[layer]
            if layer not in self.A:
                self.A[layer] = gram.new_zeros(self.slots, *gram.shape)
            self.A[layer][slot] = gram
        weights = torch.tensor([alpha, beta], dtype=torch.float64)  # too large a one becomes inf
        self.alpha[slot], self.beta[slot] = weights.to(self.alpha)

    @torch.no_grad()
    def terms(self, slot: int, image: Tensor) -> Terms:
        """The parts of a slot's loss at an image (3, H, W)."""
        F_l = self.network(image[None], {*self.w, *self.P})
        layers = {}
        for layer, P in self.P.items():
            layers[f"content.{layer}"] = float(losses.content_loss(F_l[layer], P[slot][None]))
        for layer, A in self.A.items():
            M = F_l[layer].shape[2] * F_l[layer].shape[3]
            layers[f"style.{layer}"] = float(losses.style_loss(F_l[layer], A[slot][None] * M))
        tv = float(losses.tv_loss(image[None])) if self.settings.tv_weight else 0.0
        return Terms(
            content=float(self.alpha[slot]) * sum(layers[f"content.{layer}"] for layer in self.P),
            style=float(self.beta[slot])
            * sum(w * layers[f"style.{layer}"] for layer, w in self.w.items()),
            tv=self.settings.tv_weight * tv,
            layers=layers,
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and gradient (B, 3, H, W) at ``images`` (B, 3, H, W)."""
        x = self.network.preprocess(images)
        *shallow, deepest = self.network.blocks
        kept: list[tuple[Block, Tensor, list[Tensor]]] = []
        for block in shallow:
            activations = self._forward(block, x)
            kept.append((block, x, [] if self.low_memory else activations))
            x = pool(block, activations[-1])
        loss = images.new_zeros(len(images))
        activations = self._forward(deepest, x)
        gradient = self._backward(deepest, x, activations, torch.zeros_like(activations[-1]), loss)
        while kept:
            block, x, activations = kept.pop()
            activations = activations or self._forward(block, x)
            gradient = self._backward(block, x, activations, gradient, loss)
        # On a GPU zeros may follow the three channels; see ``half_precision``.
        gradient = gradient[:, :3].to(images) / self.network.get_buffer("std").to(images)
        if self.settings.tv_weight:
            loss += self.settings.tv_weight * losses.tv_loss(images)
            gradient = gradient + self.settings.tv_weight * losses.tv_gradient(images)
        return loss, gradient.contiguous()

    def _forward(self, block: Block, x: Tensor) -> list[Tensor]:
        """The block's rectified activations F^l, each (B, N_l, H, W)."""
        activations = []
        for layer, conv in block.convs:
            x = activate(conv, x, self.fast.get(layer))
            activations.append(x)
        return activations

    def _backward(
        self, block: Block, x: Tensor, activations: list[Tensor], gradient: Tensor, loss: Tensor
    ) -> Tensor:
        """From the gradient at a block's end, behind its pooling, to that at its input ``x``; adds
        its own losses."""
        inputs = [x, *activations[:-1]]
        for (layer, conv), F_l, below in reversed(
            list(zip(block.convs, activations, inputs, strict=True))
        ):
            pooled = block.pool is not None and F_l is activations[-1]
            lossless = layer not in self.A and layer not in self.P
            if pooled and lossless and by_fours(block, F_l):
                gradient = relu_pool_backward(F_l, gradient)
            else:
                if pooled:
                    gradient = pool_backward(block, F_l, gradient)
                self._inject(layer, F_l, gradient, loss)
                gradient = aten.threshold_backward(gradient, F_l, 0)
            gradient = convolve_back(conv, below, gradient, self.fast.get(layer))
        return gradient

    def _inject(self, layer: str, F_l: Tensor, gradient: Tensor, loss: Tensor) -> None:
        """Add the layer's losses to ``loss``, their gradients (equations 2, 6) to ``gradient``."""
        if layer in self.A:
            weight = self.beta * self.w[layer]
            loss += weight * losses.add_style_gradient(F_l, self.A[layer], weight, gradient)
        if layer in self.P:
            P = self.P[layer]
            loss += self.alpha * losses.add_content_gradient(F_l, P, self.alpha, gradient)


def pool(block: Block, x: Tensor) -> Tensor:
    """What the next block sees."""
    if by_fours(block, x):
        return mean_of_fours(x)
    if isinstance(block.pool, nn.AvgPool2d):
        return F.avg_pool2d(x, 2)
    return F.max_pool2d(x, 2)


def pool_backward(block: Block, x: Tensor, gradient: Tensor) -> Tensor:
    """The adjoint of ``pool`` at ``x``."""
    size = [2, 2]
    if isinstance(block.pool, nn.AvgPool2d):
        back = aten.avg_pool2d_backward(gradient, x, size, size, [0, 0], False, True, None)
    else:
        _, indices = F.max_pool2d(x, 2, return_indices=True)
        back = aten.max_pool2d_with_indices_backward(
            gradient, x, size, size, [0, 0], [1, 1], False, indices
        )
    found: Tensor = back
    return found


def relu_pool_backward(x: Tensor, gradient: Tensor) -> Tensor:
    """The adjoint of average pooling and that of the ReLU before it, at the rectified ``x``.

    In one pass over memory; x: (B, N, H, W) of even sides.
    """
    quarter = (gradient / 4).permute(0, 2, 3, 1)[:, :, None, :, None]
    back: Tensor = aten.threshold_backward(quarter, fours(x), 0)
    return back.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def mean_of_fours(x: Tensor) -> Tensor:
    """Average pooling of (B, N, H, W) of even sides."""
    return fours(x).mean(dim=(2, 4)).permute(0, 3, 1, 2)


def by_fours(block: Block, x: Tensor) -> bool:
    """Whether ``mean_of_fours`` and ``relu_pool_backward`` serve and pay: on GPUs PyTorch's kernels
    for this order take three times as long, on a CPU they are quicker."""
    even = x.shape[2] % 2 == x.shape[3] % 2 == 0
    return x.is_cuda and even and isinstance(block.pool, nn.AvgPool2d)


def fours(x: Tensor) -> Tensor:
    """The positions that are pooled together: a view (B, H/2, 2, W/2, 2, N) of (B, N, H, W) in
    channels_last format."""
    B, N, H, W = x.shape
    return x.permute(0, 2, 3, 1).view(B, H // 2, 2, W // 2, 2, N)
