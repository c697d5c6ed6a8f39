"""The total loss of a batch of pairs and its gradient, computed without autograd.

The network's weights are frozen, and each loss reads activations that the forward pass makes
anyway. So the backward pass is a short loop over the layers: add the gradients of the layer's
losses, apply the ReLU's backward pass, then that of the convolution. Nothing here reads a value
back from the device, so a CUDA graph can record an evaluation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style.hardware import gpu_passes
from pipeline.style.hardware.convolution import activate, convolve_back
from pipeline.style.hardware.pooling import pool, pool_backward, relu_backward, relu_pool_backward
from pipeline.style.hardware.winograd import transforms
from pipeline.style.method import losses
from pipeline.style.method.balance import LossWeights
from pipeline.style.method.gradient_scale import LARGEST, GradientScale, first_scale
from pipeline.style.method.targets import StyleTarget
from pipeline.style.network.vgg import VGG, Block


@dataclass(frozen=True)
class Terms:
    """The terms of one pair's total loss (equation 7).

    Attributes:
        content: alpha L_content.
        style: beta L_style.
        tv: the weighted total variation.
        layers: E_l (``style.<layer>``) and L_content (``content.<layer>``) of each layer, without
            weights.
    """

    content: float
    style: float
    tv: float
    layers: dict[str, float]


class Objective:
    """L_total = alpha L_content + beta sum_l w_l E_l of B slots of one size (equations 5 and 7).

    The settings may add a total variation.

    Args:
        network: VGG; its floating-point type is the one that the convolutions run in.
        slots: B. Each slot is empty, with zero loss, until ``put`` fills it.
        settings: gives the layers and whether there is a total variation.
        low_memory: keep only the blocks' inputs and compute a block's activations again in the
            backward pass: a third more time for a third of the memory.

    Attributes:
        alpha: the content weight of each slot (B,).
        beta_w: layer to beta w_l of each slot (B,).
        tv: the weight of the total variation of each slot (B,).
        P: layer to the content images' activations P^l (B, N_l, H_l, W_l).
        A: layer to the style images' Gram matrices per position, A^l / M^l (B, N_l, N_l).
        scale: what the gradients are multiplied by inside the network.
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
        self.beta_w = {layer: torch.zeros_like(self.alpha) for layer in self.style_layers}
        self.A: dict[str, Tensor] = {}
        self.P: dict[str, Tensor] = {}
        self.mean, self.std = (network.get_buffer(name).to(self.alpha) for name in ("mean", "std"))
        self.scale = GradientScale(self.alpha)

    @torch.no_grad()
    def put(
        self, slot: int, content_image: Tensor, target: StyleTarget, weights: LossWeights
    ) -> None:
        """Fill a slot with a pair.

        Args:
            slot: its index, from 0 to B - 1.
            content_image: (3, H, W), RGB in [0, 1], of the same size in every slot.
            target: what the style images ask for at this size.
            weights: the pair's alpha, beta and w_l.
        """
        found = self.network(content_image[None], self.settings.content_layers)
        for layer, F_l in found.items():
            if layer not in self.P:
                self.P[layer] = torch.zeros_like(F_l.expand(self.slots, -1, -1, -1))
            self.P[layer][slot] = F_l[0]
        for layer in self.style_layers:
            gram = target.grams[layer]
            if layer not in self.A:
                self.A[layer] = gram.new_zeros(self.slots, *gram.shape)
            self.A[layer][slot] = gram
        scale = self._first_scale(weights, content_image.shape[1], content_image.shape[2])
        beta_w = [weights.beta * weights.w[layer] for layer in self.style_layers]
        buffers = (self.alpha, self.tv, self.scale.factor, *self.beta_w.values())
        # In float64, so that too large a weight becomes inf.
        values = torch.tensor([weights.alpha, weights.tv, scale, *beta_w], dtype=torch.float64)
        for buffer, value in zip(buffers, values.to(self.alpha), strict=True):
            buffer[slot] = value
        self.scale.target[slot] = LARGEST

    def _first_scale(self, weights: LossWeights, H: int, W: int) -> float:
        """Return the scale of a pair's first gradient at an image size of H x W pixels."""
        if self.network.dtype != torch.float16:
            return 1.0
        factors = []
        for layer in self.style_layers:
            N, M = self.A[layer].shape[1], (H * W) >> 2 * (int(layer[4]) - 1)
            factors.append(weights.beta * weights.w[layer] / (N**2 * max(M, 1)))
        return first_scale(factors, weights.alpha if self.P else 0.0)

    @torch.no_grad()
    def terms(self, slot: int, image: Tensor, exact: tuple[VGG, Tensor] | None = None) -> Terms:
        """Return the terms of a slot's loss at an image, by the plain equations.

        Args:
            slot: a filled slot.
            image: (3, H, W), RGB in [0, 1].
            exact: another network to compute them with, and the slot's content image (3, H, W).
        """
        P_l = {layer: P[slot][None] for layer, P in self.P.items()}
        network = self.network
        if exact is not None:
            network, content_image = exact
            P_l = network(content_image[None], P_l)
        F_l = network(image[None], {*self.style_layers, *P_l})
        content = {layer: float(losses.content_loss(F_l[layer], P)) for layer, P in P_l.items()}
        E = {}
        for layer, A in self.A.items():
            M = F_l[layer].shape[2] * F_l[layer].shape[3]
            E[layer] = float(losses.layer_style_loss(F_l[layer], A[slot][None] * M))
        beta_w = {layer: float(weight[slot]) for layer, weight in self.beta_w.items()}
        tv = float(losses.tv_loss(image[None])) if self.settings.tv_weight else 0.0
        return Terms(
            content=float(self.alpha[slot]) * sum(content.values()),
            style=losses.style_loss(E, beta_w),
            tv=float(self.tv[slot]) * tv,
            layers={
                **{f"content.{layer}": loss for layer, loss in content.items()},
                **{f"style.{layer}": loss for layer, loss in E.items()},
            },
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (B,) and their gradients (B, 3, H, W) at ``images`` (B, 3, H, W)."""
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
            loss += self.tv * losses.add_tv_gradient(images, self.tv, gradient)
        return loss, gradient

    def _enter(self, images: Tensor) -> Tensor:
        """Return ``images`` (B, 3, H, W) as the network's input."""
        network = self.network
        channels = network.blocks[0].convs[0][1].in_channels
        x = gpu_passes.enter_network(images, self.mean, self.std, channels, network.dtype)
        return network.preprocess(images) if x is None else x

    def _leave(self, gradient: Tensor) -> Tensor:
        """Return the gradient at the images (B, 3, H, W), given that at the network's input.

        It is contiguous, and may overwrite the given one.
        """
        half = self.network.dtype == torch.float16
        factor = self.scale.factor
        found = gpu_passes.leave_network(gradient, 1 / factor, self.std)
        if found is None:
            # On a GPU channels of zeros may follow the three of the image; see ``half_precision``.
            left = gradient[:, :3].to(factor).contiguous().div_(self.std)
            if not half:
                return left
            left = left / factor.view(-1, 1, 1, 1)
            found = left, left.flatten(1).norm(torch.inf, dim=1)
        left, largest = found
        if half:
            self.scale.follow(largest)
        return left

    def _forward(self, block: Block, x: Tensor) -> list[Tensor]:
        """Return the block's rectified activations F^l, each (B, N_l, H, W), for its input x."""
        activations = []
        for layer, conv in block.convs:
            x = activate(conv, x, self.fast.get(layer))
            activations.append(x)
        return activations

    def _backward(
        self, block: Block, x: Tensor, activations: list[Tensor], gradient: Tensor, loss: Tensor
    ) -> Tensor:
        """Return the gradient at a block's input, and add the block's losses to ``loss``.

        Args:
            block: the block.
            x: its input (B, C, H, W).
            activations: its F^l, from the input upwards.
            gradient: the gradient after the block's pooling.
            loss: (B,), changed in place.
        """
        inputs = [x, *activations[:-1]]
        for (layer, conv), F_l, below in reversed(
            list(zip(block.convs, activations, inputs, strict=True))
        ):
            pooled = block.pool is not None and F_l is activations[-1]
            if pooled and layer not in self.A and layer not in self.P:
                gradient = relu_pool_backward(block, F_l, gradient)
            else:
                if pooled:
                    gradient = pool_backward(block, F_l, gradient)
                gradient = self._add_losses(layer, F_l, gradient, loss)
            gradient = convolve_back(conv, below, gradient, self.fast.get(layer))
        return gradient

    def _add_losses(self, layer: str, F_l: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Add a layer's terms of equation 7 to ``loss`` and return the gradient before its ReLU.

        Args:
            layer: its name.
            F_l: its activations (B, N_l, H, W).
            gradient: the gradient at ``F_l`` from the layers above; overwritten.
            loss: (B,), changed in place.
        """
        scale = self.scale.factor
        if layer in self.P:  # alpha L_content and its gradient: equations 1 and 2
            weight = self.alpha * scale
            loss += self.alpha * losses.add_content_gradient(F_l, self.P[layer], weight, gradient)
        if layer not in self.A:
            return relu_backward(F_l, gradient)
        # beta w_l E_l and its gradient: equations 4 to 6
        beta_w = self.beta_w[layer]
        E, gradient = losses.add_style_gradient(F_l, self.A[layer], beta_w * scale, gradient)
        loss += beta_w * E
        return gradient


def weighted_layers(settings: StyleSettings) -> tuple[str, ...]:
    """Return the style layers that count: those whose w_l is not 0."""
    w = settings.style_layer_weights
    if not isinstance(w, tuple):
        return settings.style_layers
    return tuple(layer for layer, w_l in zip(settings.style_layers, w, strict=True) if w_l > 0)
