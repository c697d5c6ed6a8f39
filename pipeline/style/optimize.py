"""The method: from content images and style targets to stylised images and their loss history.

Each pair of a batch is an optimisation of its own; the batch only shares the network's evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings import StyleSettings
from pipeline.style import losses
from pipeline.style.color import luminance, match_color, match_luminance, restore_color
from pipeline.style.lbfgs import LBFGS, Adam
from pipeline.style.precondition import Preconditioner, color_covariance
from pipeline.style.vgg import VGG
from pipeline.style.weights import load_network

WINDOW = 20
"""Evaluations over which the loss must fall by ``tolerance`` for a sample to go on."""

COARSEST = 64
"""Pixels: no scale's shorter edge is smaller, unless the image's is."""

GREY_LEVEL = 1 / 255

PER_PAIR = (
    "content_weight",
    "style_weight",
    "iterations",
    "seed",
    "image_size",
    "preserve_color",
)
"""Settings that may differ within a batch; all others are the batch's."""

Size = tuple[int, int]


@dataclass(frozen=True)
class StyleTarget:
    """What a style image asks for, at one scale.

    grams: layer to A^l / M^l (N_l, N_l), a Gram matrix per position, so that a style of another
    size serves. covariance: (3, 3) of its colours.
    """

    grams: dict[str, Tensor]
    covariance: Tensor


@dataclass(frozen=True)
class Pair:
    """One row's problem: content (3, H, W) in [0, 1], a target per scale, and its settings."""

    content_image: Tensor
    style_targets: tuple[StyleTarget, ...]
    settings: StyleSettings


@dataclass(frozen=True)
class History:
    """What happened to one pair.

    total: the loss after each evaluation, over all scales. content, style, tv: at the end, each
    with its weight, so that their sum is total_loss. layers: E_l or L_content of each layer at the
    end, without weights. evaluations: of loss and gradient. iterations: steps taken. stop:
    ``converged``, ``iterations``, ``stuck`` (no step lowers the loss) or ``non-finite`` (only steps
    to values that are not finite were left; the picture is the last good one).
    """

    total: tuple[float, ...]
    total_loss: float
    content_loss: float
    style_loss: float
    tv_loss: float
    layers: dict[str, float]
    evaluations: int
    iterations: int
    stop: str


class NonFiniteError(ArithmeticError):
    """A pair's loss or gradient is NaN or infinite at its start."""


def scale_sizes(size: Size, scales: int) -> list[Size]:
    """Sizes (H, W) from coarse to fine; the last is ``size``. Sides are multiples of 16 px."""
    sizes = [size]
    while len(sizes) < scales:
        H, W = (max(16, round(side / 2 / 16) * 16) for side in sizes[0])
        if min(H, W) < COARSEST:
            break
        sizes.insert(0, (H, W))
    return sizes


def resize(images: Tensor, size: Size) -> Tensor:
    """(B, 3, H, W) to ``size``, bicubic, without aliasing."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


@torch.no_grad()
def style_target(network: VGG, style_image: Tensor, settings: StyleSettings) -> StyleTarget:
    """The target of one style image (3, H, W), RGB in [0, 1], on the network's device."""
    features = network(style_image[None], settings.style_layers)
    grams = {}
    for layer, activation in features.items():
        M = activation.shape[2] * activation.shape[3]
        grams[layer] = losses.gram_matrix(activation)[0] / M
    return StyleTarget(grams, color_covariance(style_image))


def style_targets(
    network: VGG, style_image: Tensor, content_size: Size, settings: StyleSettings
) -> tuple[StyleTarget, ...]:
    """A target per scale; the style image (3, H, W) is made smaller with the content's scales."""
    targets = []
    for size in scale_sizes(content_size, settings.scales):
        ratio = ((size[0] * size[1]) / (content_size[0] * content_size[1])) ** 0.5
        H, W = (max(16, round(side * ratio)) for side in style_image.shape[1:])
        small = resize(style_image[None], (H, W))[0].clamp(0, 1)
        targets.append(style_target(network, small, settings))
    return tuple(targets)


def blend_targets(
    targets: Sequence[tuple[StyleTarget, ...]], weights: Sequence[float]
) -> tuple[StyleTarget, ...]:
    """Style interpolation: the weighted mean of several styles' Gram matrices, per scale."""
    shares = [weight / sum(weights) for weight in weights]
    blended = []
    for at_scale in zip(*targets, strict=True):
        grams = {
            layer: sum(
                (
                    share * target.grams[layer]
                    for share, target in zip(shares, at_scale, strict=True)
                ),
                start=torch.zeros_like(gram),
            )
            for layer, gram in at_scale[0].grams.items()
        }
        covariance = sum(
            (share * target.covariance for share, target in zip(shares, at_scale, strict=True)),
            start=torch.zeros_like(at_scale[0].covariance),
        )
        blended.append(StyleTarget(grams, covariance))
    return tuple(blended)


class Objective:
    """alpha L_content + beta L_style (+ tv) of a batch at one scale (paper, equation 7).

    Args:
        content: (B, 3, H, W) at this scale.
        targets: one per sample.
        alpha, beta: (B,).
    """

    def __init__(
        self,
        network: VGG,
        content: Tensor,
        targets: Sequence[StyleTarget],
        alpha: Tensor,
        beta: Tensor,
        settings: StyleSettings,
    ) -> None:
        self.network, self.settings = network, settings
        self.alpha, self.beta = alpha, beta
        self.w = {layer: w for layer, w in settings.w.items() if w > 0}
        self.grams = {
            layer: torch.stack([target.grams[layer] for target in targets]) for layer in self.w
        }
        with torch.no_grad():
            self.P = network(content, settings.content_layers)

    def layer_losses(self, images: Tensor) -> dict[str, Tensor]:
        """L_content (keys ``content.<layer>``) and E_l (``style.<layer>``), (B,) each."""
        F_l = self.network(images, {*self.w, *self.P})
        found = {
            f"content.{layer}": losses.content_loss(F_l[layer], P) for layer, P in self.P.items()
        }
        for layer, gram in self.grams.items():
            M = F_l[layer].shape[2] * F_l[layer].shape[3]
            found[f"style.{layer}"] = losses.style_loss(F_l[layer], gram * M)
        return found

    def terms(self, images: Tensor, layers: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted content, style and total variation losses, (B,) each."""
        zero = images.new_zeros(len(images))
        content = sum((layers[f"content.{layer}"] for layer in self.P), start=zero)
        style = sum((w * layers[f"style.{layer}"] for layer, w in self.w.items()), start=zero)
        tv = zero
        if self.settings.tv_weight:
            tv = self.settings.tv_weight * losses.tv_loss(images)
        return self.alpha * content, self.beta * style, tv

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Loss (B,) and gradient (B, 3, H, W) at ``images`` (B, 3, H, W)."""
        images = images.detach().requires_grad_(True)
        content, style, tv = self.terms(images, self.layer_losses(images))
        loss = content + style + tv
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        return loss.detach(), gradient


@dataclass
class _Run:
    """One scale's outcome: images (B, 3, H, W), losses (evaluations, B), counts and flags (B,)."""

    images: Tensor
    losses: Tensor
    evaluations: Tensor
    iterations: Tensor
    stuck: Tensor
    failed: Tensor
    converged: Tensor


def minimise(
    objective: Objective, start: Tensor, covariance: Tensor, most: Tensor, settings: StyleSettings
) -> _Run:
    """Minimise from ``start`` (B, 3, H, W), at most ``most`` (B,) evaluations per sample.

    Raises:
        NonFiniteError: a sample's loss or gradient is not finite at ``start``.
    """
    B = len(start)
    size = (start.shape[2], start.shape[3])
    W = Preconditioner(
        size,
        settings.spectral_exponent,
        covariance if settings.color_preconditioner else None,
        like=start,
    )

    def precondition(z: Tensor) -> Tensor:
        return W(z.view_as(start)).flatten(1)

    z = torch.zeros_like(start).flatten(1)
    optimizer: LBFGS | Adam
    if settings.optimizer == "adam":
        optimizer = Adam(z, learning_rate=settings.learning_rate * GREY_LEVEL)
    else:
        optimizer = LBFGS(
            z,
            history_size=settings.history_size,
            learning_rate=settings.learning_rate,
            curvature_test=settings.curvature_test,
            first_step=settings.first_step * GREY_LEVEL,
            backtracks=settings.backtracks,
            measure=precondition,
        )
    active = most > 0
    evaluations = torch.zeros(B, dtype=torch.long, device=start.device)
    converged = torch.zeros_like(active)
    trace: list[Tensor] = []
    for count in range(1, int(most.max()) + 1):
        loss, gradient = objective(start + W(optimizer.x.view_as(start)))
        optimizer.step(loss, precondition(gradient), active)
        if count == 1 and bool(optimizer.failed.any()):
            bad = optimizer.failed.nonzero().flatten().tolist()
            raise NonFiniteError(f"the loss is not finite at the start of samples {bad}")
        evaluations += active
        trace.append(optimizer.loss)
        if settings.tolerance and count > WINDOW:
            fell = trace[-1 - WINDOW] - trace[-1]
            converged |= active & (fell < settings.tolerance * trace[-1])
        active = active & ~converged & ~optimizer.stopped & (evaluations < most)
        if not bool(active.any()):
            break
    images = start + W(optimizer.accepted.view_as(start))
    return _Run(
        images=images,
        losses=torch.stack(trace) if trace else start.new_zeros(0, B),
        evaluations=evaluations,
        iterations=optimizer.steps,
        stuck=optimizer.stopped,
        failed=optimizer.failed,
        converged=converged,
    )


def stylize_pairs(network: VGG, pairs: Sequence[Pair]) -> tuple[Tensor, list[History]]:
    """Optimise a batch of pairs of one size. Returns images (B, 3, H, W) in [0, 1] and histories.

    The pairs' settings may differ in ``PER_PAIR`` only.

    Raises:
        NonFiniteError: a sample's loss is not finite at its start; run it without the others.
    """
    settings = pairs[0].settings
    shared = {name: getattr(settings, name) for name in PER_PAIR}
    if any(replace(pair.settings, **shared) != settings for pair in pairs):
        raise ValueError(f"the settings of a batch may differ in {', '.join(PER_PAIR)} only")
    content = torch.stack([pair.content_image for pair in pairs])
    full_size = (content.shape[2], content.shape[3])
    sizes = scale_sizes(full_size, settings.scales)
    alpha = content.new_tensor([pair.settings.content_weight for pair in pairs])
    beta = content.new_tensor([pair.settings.style_weight for pair in pairs])
    shares = [_shares(pair.settings.iterations, len(sizes)) for pair in pairs]

    images = content
    runs: list[_Run] = []
    for index, size in enumerate(sizes):
        content_here = resize(content, size).clamp(0, 1)
        # M_l shrinks with the scale and L_content with it, E_l does not: keep the final balance.
        alpha_here = alpha * (full_size[0] * full_size[1]) / (size[0] * size[1])
        targets = [pair.style_targets[index] for pair in pairs]
        objective = Objective(network, content_here, targets, alpha_here, beta, settings)
        if index == 0:
            images = _initial(content_here, pairs)
        elif settings.init_image == "content":
            # The change is carried up, not the image: the content keeps its detail.
            coarse = resize(content, sizes[index - 1]).clamp(0, 1)
            images = content_here + resize(images - coarse, size)
        else:
            images = resize(images, size)
        covariance = torch.stack([target.covariance for target in targets])
        most = torch.tensor([share[index] for share in shares], device=content.device)
        runs.append(minimise(objective, images, covariance, most, settings))
        images = runs[-1].images
    images = images.clamp(0, 1)
    return images, _histories(objective, images, runs)


def _shares(iterations: int, scales: int) -> list[int]:
    """Evaluations per scale, the remainder to the finest."""
    each = iterations // scales
    return [each] * (scales - 1) + [iterations - each * (scales - 1)]


def _initial(content: Tensor, pairs: Sequence[Pair]) -> Tensor:
    if pairs[0].settings.init_image == "content":
        return content
    noise = []
    for pair in pairs:
        # Drawn on the CPU: the same picture whatever the device and the neighbours.
        generator = torch.Generator().manual_seed(pair.settings.seed)
        noise.append(torch.randn(content.shape[1:], generator=generator))
    return (0.5 + 0.25 * torch.stack(noise)).clamp(0, 1).to(content)


@torch.no_grad()
def _histories(objective: Objective, images: Tensor, runs: Sequence[_Run]) -> list[History]:
    """The losses of the clamped images at full size, and each sample's way there."""
    layers = objective.layer_losses(images)
    content, style, tv = (term.tolist() for term in objective.terms(images, layers))
    by_layer = {layer: values.tolist() for layer, values in layers.items()}
    traces = [run.losses.T.tolist() for run in runs]
    histories = []
    for b in range(len(images)):
        counts = [int(run.evaluations[b]) for run in runs]
        last = runs[-1]
        reasons = {"non-finite": last.failed, "stuck": last.stuck, "converged": last.converged}
        stop = next((name for name, flag in reasons.items() if flag[b]), "iterations")
        histories.append(
            History(
                total=tuple(
                    value
                    for trace, count in zip(traces, counts, strict=True)
                    for value in trace[b][:count]
                ),
                total_loss=content[b] + style[b] + tv[b],
                content_loss=content[b],
                style_loss=style[b],
                tv_loss=tv[b],
                layers={layer: values[b] for layer, values in by_layer.items()},
                evaluations=sum(counts),
                iterations=sum(int(run.iterations[b]) for run in runs),
                stop=stop,
            )
        )
    return histories


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


def stylize(
    content_images: Tensor,
    style_images: Sequence[Tensor | Sequence[Tensor]] | Tensor,
    settings: StyleSettings | None = None,
    *,
    style_blend: Sequence[float] | None = None,
    network: VGG | None = None,
) -> tuple[Tensor, list[History]]:
    """Stylise a batch. Needs neither Ray nor storage.

    Args:
        content_images: (B, 3, H, W), RGB in [0, 1]. The result has their size
            (``settings.image_size`` is for those who load images).
        style_images: one for each content image: (B, 3, H', W'), or a sequence of B images
            (3, H', W'), or of B sequences of images that are to be blended.
        settings: the method's hyperparameters; the paper's by default.
        style_blend: weights of blended styles, the same for all samples; equal if not given.
        network: a network that is already loaded, on the device to be used.

    Returns:
        images (B, 3, H, W) in [0, 1], and one ``History`` per sample.

    Raises:
        WeightsError: the settings' weights cannot be had.
        NonFiniteError: a sample's loss is not finite at its start.
    """
    settings = settings or StyleSettings()
    if len(style_images) != len(content_images):
        raise ValueError(f"{len(content_images)} content images, {len(style_images)} style images")
    network = network or load_network(settings).to(content_images.device)
    size = (content_images.shape[2], content_images.shape[3])
    pairs = []
    for content, given in zip(content_images, style_images, strict=True):
        styles = [given] if isinstance(given, Tensor) and given.ndim == 3 else list(given)
        seen, styles = prepare_colors(content, styles, settings.preserve_color)
        targets = [style_targets(network, style, size, settings) for style in styles]
        blend = style_blend or [1.0] * len(styles)
        pairs.append(Pair(seen, blend_targets(targets, blend), settings))
    images, histories = stylize_pairs(network, pairs)
    finished = [
        finish_colors(image, content, settings.preserve_color)
        for image, content in zip(images, content_images, strict=True)
    ]
    return torch.stack(finished), histories
