"""The loss of a batch and its gradient, by hand: no autograd, nothing is kept that is not needed.

The weights are frozen and every loss reads an activation that lies there anyway, so that the way
back is a short loop: what a layer's losses ask of F^l, the ReLU's zeros, the convolution's adjoint.
Nothing here asks the device for a value; a CUDA graph can hold an evaluation.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.settings import StyleSettings
from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.convolution import activate, convolve_back
from pipeline.style.hardware.winograd import transforms
from pipeline.style.method import losses
from pipeline.style.method.balance import LossWeights
from pipeline.style.method.targets import StyleTarget
from pipeline.style.network.vgg import VGG, Block

aten = torch.ops.aten

LARGEST = 32.0
"""What the image's gradient is scaled to in float16. The activations' may be ten times as large or
a thousand times smaller; float16 reaches to 65,504, and down to 6e-5 with all of its digits."""

BEGIN, CAP = 2.0**-8, 2.0**4
"""The largest factor of a layer's style loss and, at most, of the content loss, scaled, before a
gradient was seen. The latter begins at 0 where the content image is the start, which must not keep
the style's gradient below what float16 holds."""

TOO_LARGE = 2.0**-8
"""By what a pair's scale changes when it was too much for float16, and, once, ``largest``."""

SCALES = (2.0**-100, 2.0**100)
"""Least and greatest scale."""


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
        settings: gives the layers, and whether there is a total variation.
        low_memory: keep only the blocks' inputs and compute a block's activations again on the way
            back: a third more time, a third of the memory.
    """

    def __init__(
        self, network: VGG, slots: int, settings: StyleSettings, *, low_memory: bool = False
    ) -> None:
        self.network, self.slots, self.settings = network, slots, settings
        self.low_memory = low_memory
        self.fast = transforms(network)
        self.style_layers = weighted_layers(settings)
        wide = torch.promote_types(network.dtype, torch.float32)
        self.alpha = torch.zeros(slots, device=network.device, dtype=wide)
        self.tv = torch.zeros_like(self.alpha)
        self.mean, self.std = (network.get_buffer(name).to(self.alpha) for name in ("mean", "std"))
        # By which gradients are multiplied on their way through the network, powers of 2.
        self.scale = torch.ones_like(self.alpha)
        self.largest = torch.full_like(self.alpha, LARGEST)
        # Layer to beta w_l (B,), to A^l / M^l (B, N, N)
        self.share = {layer: torch.zeros_like(self.alpha) for layer in self.style_layers}
        self.A: dict[str, Tensor] = {}
        self.P: dict[str, Tensor] = {}  # layer to P^l (B, N, H, W)

    @torch.no_grad()
    def put(self, slot: int, content: Tensor, target: StyleTarget, weights: LossWeights) -> None:
        """Fill a slot: content (3, H, W) in [0, 1], of the same size in every slot."""
        found = self.network(content[None], self.settings.content_layers)
        for layer, features in found.items():
            if layer not in self.P:
                self.P[layer] = torch.zeros_like(features.expand(self.slots, -1, -1, -1))
            self.P[layer][slot] = features[0]
        for layer in self.style_layers:
            gram = target.grams[layer]
            if layer not in self.A:
                self.A[layer] = gram.new_zeros(self.slots, *gram.shape)
            self.A[layer][slot] = gram
        scale = self._first_scale(weights, content.shape[1], content.shape[2])
        shares = [weights.beta * weights.w[layer] for layer in self.style_layers]
        buffers = (self.alpha, self.tv, self.scale, *self.share.values())
        # In float64, so that too large a weight becomes inf.
        values = torch.tensor([weights.alpha, weights.tv, scale, *shares], dtype=torch.float64)
        for buffer, value in zip(buffers, values.to(self.alpha), strict=True):
            buffer[slot] = value
        self.largest[slot] = LARGEST

    def _first_scale(self, weights: LossWeights, H: int, W: int) -> float:
        if self.network.dtype != torch.float16:
            return 1.0
        wanted = [SCALES[1]]
        for layer in self.style_layers:
            N, M = self.A[layer].shape[1], (H * W) >> 2 * (int(layer[4]) - 1)
            factor = weights.beta * weights.w[layer] / (N**2 * max(M, 1))
            wanted.append(BEGIN / factor if factor else SCALES[1])
        if self.P and weights.alpha:
            wanted.append(CAP / weights.alpha)
        return 2.0 ** math.floor(math.log2(max(SCALES[0], min(wanted))))

    @torch.no_grad()
    def terms(self, slot: int, image: Tensor, exact: tuple[VGG, Tensor] | None = None) -> Terms:
        """The parts of a slot's loss at an image (3, H, W).

        Args:
            exact: another network to compute them by, and the slot's content image (3, H, W).
        """
        P_l = {layer: P[slot][None] for layer, P in self.P.items()}
        network = self.network
        if exact is not None:
            network, content = exact
            P_l = network(content[None], P_l)
        F_l = network(image[None], {*self.style_layers, *P_l})
        layers = {}
        for layer, P in P_l.items():
            layers[f"content.{layer}"] = float(losses.content_loss(F_l[layer], P))
        for layer, A in self.A.items():
            M = F_l[layer].shape[2] * F_l[layer].shape[3]
            layers[f"style.{layer}"] = float(losses.style_loss(F_l[layer], A[slot][None] * M))
        tv = float(losses.tv_loss(image[None])) if self.settings.tv_weight else 0.0
        return Terms(
            content=float(self.alpha[slot]) * sum(layers[f"content.{layer}"] for layer in P_l),
            style=sum(
                float(share[slot]) * layers[f"style.{layer}"] for layer, share in self.share.items()
            ),
            tv=float(self.tv[slot]) * tv,
            layers=layers,
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and gradient (B, 3, H, W) at ``images`` (B, 3, H, W)."""
        x = self._enter(images)
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
        gradient = self._leave(gradient)
        if self.settings.tv_weight:
            loss += self.tv * losses.tv_loss(images)
            gradient = gradient + self.tv.view(-1, 1, 1, 1) * losses.tv_gradient(images)
        return loss, gradient.contiguous()

    def _enter(self, images: Tensor) -> Tensor:
        """What the network is to see of ``images`` (B, 3, H, W)."""
        network = self.network
        channels = network.blocks[0].convs[0][1].in_channels
        x = gpu_passes.enter_network(images, self.mean, self.std, channels, network.dtype)
        return network.preprocess(images) if x is None else x

    def _leave(self, gradient: Tensor) -> Tensor:
        """The gradient at the images (B, 3, H, W), of that at the network's input."""
        half = self.network.dtype == torch.float16
        found = gpu_passes.leave_network(gradient, 1 / self.scale, self.std)
        if found is None:
            # On a GPU zeros may follow the three channels; see ``half_precision``.
            left = gradient[:, :3].to(self.scale) / self.std
            if not half:
                return left
            left = left / self.scale.view(-1, 1, 1, 1)
            found = left, left.flatten(1).norm(torch.inf, dim=1)
        left, largest = found
        if half:
            self._follow(largest)
        return left

    def _follow(self, largest: Tensor) -> None:
        """Scale the next gradient by the size of this one, (B,)."""
        fits = torch.isfinite(largest)
        self.largest.mul_(torch.where(fits, 1, TOO_LARGE)).clamp_min_(LARGEST * TOO_LARGE)
        wanted = torch.exp2(torch.log2(self.largest / largest).floor())
        wanted = torch.where(largest > 0, wanted, self.scale / TOO_LARGE)  # zeros may be too small
        self.scale.copy_(torch.where(fits, wanted, self.scale * TOO_LARGE).clamp_(*SCALES))

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
                found = gpu_passes.relu_pool_backward(F_l, gradient)
                gradient = relu_pool_backward(F_l, gradient) if found is None else found
            else:
                if pooled:
                    gradient = pool_backward(block, F_l, gradient)
                if not self._inject(layer, F_l, gradient, loss):
                    gradient = aten.threshold_backward(gradient, F_l, 0)
            gradient = convolve_back(conv, below, gradient, self.fast.get(layer))
        return gradient

    def _inject(self, layer: str, F_l: Tensor, gradient: Tensor, loss: Tensor) -> bool:
        """Add the layer's losses to ``loss``, their gradients (equations 2, 6) to ``gradient``.

        Returns whether the ReLU's way back was done with it.
        """
        rectified = False
        if layer in self.P:
            P, weight = self.P[layer], self.alpha * self.scale
            loss += self.alpha * losses.add_content_gradient(F_l, P, weight, gradient)
        if layer in self.A:
            share = self.share[layer]
            E, rectified = losses.add_style_gradient(
                F_l, self.A[layer], share * self.scale, gradient
            )
            loss += share * E
        return rectified


def weighted_layers(settings: StyleSettings) -> tuple[str, ...]:
    """The style layers that count: those whose w_l is not 0."""
    w = settings.style_layer_weights
    if not isinstance(w, tuple):
        return settings.style_layers
    return tuple(layer for layer, w_l in zip(settings.style_layers, w, strict=True) if w_l > 0)


def pool(block: Block, x: Tensor) -> Tensor:
    """What the next block sees."""
    if by_fours(block, x):
        pooled = gpu_passes.pool(x)
        return mean_of_fours(x) if pooled is None else pooled
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
