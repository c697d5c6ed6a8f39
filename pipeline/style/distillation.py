"""A student network and its teachers: what the small trained network is made with.

Source: Wang, Li, Wang, Hu, Yang, "Collaborative Distillation for Ultra-Resolution Universal Style
Transfer" (CVPR 2020): each layer of the student, under a linear map (a 1x1 convolution, dropped
after training), is to give each teacher's activations in the layer of the same name. Three things
differ. Every layer is taught, not one per block. The student is batch-normalised while it learns,
which keeps all its filters alive, and the normalisation is folded into its weights in the end. And
beside the activations their Gram matrices can be matched, since these are what style losses
compare.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.style.conventions import converted, named_convention, names_in_file, split_convention
from pipeline.style.losses import gram_matrix
from pipeline.style.vgg import VGG, Padding, StateDict, layers_up_to, tensor_names
from pipeline.style.weights import (
    RARE,
    WIDTHS,
    WeightsError,
    check_weights,
    imagenet_weights,
    normalise,
    parse_weights,
    random_weights,
)

DEEPEST = "conv5_1"
COMPACT_WIDTHS = tuple(width // 4 for width in WIDTHS)
PADDINGS: tuple[Padding, ...] = ("zeros", "replicate", "reflect")


@dataclass(frozen=True)
class Teacher:
    """A network, and the mean and deviation (1, N_l, 1, 1) of its activations in each layer.

    share: the student's batch over the teacher's; wide teachers see fewer crops, as they cost more.
    """

    network: VGG
    moments: dict[str, tuple[Tensor, Tensor]]
    share: int

    @torch.no_grad()
    def targets(self, images: Tensor) -> dict[str, Tensor]:
        """Standardised activations (B', N_l, H_l, W_l) of the first B' of the images."""
        seen = images[: max(1, len(images) // self.share)]
        return {
            layer: (thinned(layer, activation) - self.moments[layer][0]) / self.moments[layer][1]
            for layer, activation in self.network.activations(seen)
        }


def read_teacher(source: str) -> tuple[StateDict, str, Padding]:
    """The weights called ``imagenet`` or ``FILE[:CONVENTION][:PADDING]`` (see ``conventions``),
    their deepest layer, their padding.

    Raises:
        WeightsError: they cannot be had or do not fit.
    """
    name, _, ending = source.rpartition(":")
    padding: Padding = "zeros"
    if ending in PADDINGS:
        padding = ending
    else:
        name = source
    name, convention = split_convention(name)
    if name == "imagenet":
        state, convention = imagenet_weights(), "torchvision"
    else:
        try:
            state = parse_weights(Path(name).read_bytes(), name)
        except OSError as error:
            raise WeightsError(f"--teacher {name}: cannot be read ({error})") from error
    convention = convention or named_convention(state)
    deepest = deepest_layer(state, name)
    state = converted(check_weights(state, deepest, name), convention, name)
    return state, deepest, padding


def load_teacher(source: str, images: Tensor) -> Teacher:
    """The teacher of that name (``read_teacher``), its moments taken over ``images``."""
    state, deepest, padding = read_teacher(source)
    network = VGG(state, deepest_layer=deepest, padding=padding)
    moments = {}
    with torch.no_grad():
        for layer, activation in network.activations(images):
            mean = activation.mean(dim=(0, 2, 3), keepdim=True)
            deviation = activation.std(dim=(0, 2, 3), keepdim=True)
            # A filter that hardly ever speaks would drown the others if brought to their level.
            moments[layer] = mean, deviation.clamp_min(RARE * float(deviation.mean()))
    wide = state[tensor_names("conv1_1")[0]].shape[0] > COMPACT_WIDTHS[0]
    return Teacher(network, moments, share=4 if wide else 1)


def thinned(layer: str, activation: Tensor) -> Tensor:
    """Every 4th row and column in block 1, every 2nd in block 2: neighbours there are alike."""
    stride = {"1": 4, "2": 2}.get(layer[4], 1)
    return activation[:, :, stride // 2 :: stride, stride // 2 :: stride]


def deepest_layer(state: StateDict, name: str) -> str:
    """The last layer up to conv5_1 of which ``state`` has all the layers below."""
    found, names = None, names_in_file(state)
    for layer in (layer for layer in layers_up_to(DEEPEST) if layer in names):
        if f"{names[layer]}.weight" not in state:
            break
        found = layer
    if found is None:
        raise WeightsError(f"--teacher {name}: has no tensor '{names['conv1_1']}.weight'")
    return found


class Student(nn.Module):
    """A VGG whose convolutions are batch-normalised, and its maps to each teacher's layers."""

    def __init__(self, teachers: Sequence[Teacher], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = VGG(random_weights(seed, COMPACT_WIDTHS), deepest_layer=DEEPEST)
        self.network.requires_grad_(True)
        width = {layer: state_width(self.network.state_dict(), layer) for layer in self.layers}
        self.norms = nn.ModuleDict({layer: nn.BatchNorm2d(width[layer]) for layer in self.layers})
        self.maps = nn.ModuleList(
            nn.ModuleDict(
                {
                    layer: nn.Conv2d(width[layer], mean.shape[1], kernel_size=1)
                    for layer, (mean, _) in teacher.moments.items()
                }
            )
            for teacher in teachers
        )

    @property
    def layers(self) -> tuple[str, ...]:
        return self.network.layers

    def forward(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and activations (B, N_l, H_l, W_l), as ``VGG.activations``."""
        x = self.network.preprocess(images)
        layers = iter(self.layers)
        layer = ""
        for module in self.network.features:
            x = module(x)
            if isinstance(module, nn.Conv2d):
                layer = next(layers)
                x = self.norms[layer](x)
            elif isinstance(module, nn.ReLU):
                yield layer, x

    @torch.no_grad()
    def folded(self) -> StateDict:
        """The weights of a plain VGG that does what this one does in evaluation."""
        state: StateDict = {}
        own = self.network.state_dict()
        for layer in self.layers:
            norm = cast(nn.BatchNorm2d, self.norms[layer])
            weight, bias = tensor_names(layer)
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            state[weight], state[bias] = fuse_conv_bn_weights(
                own[weight], own[bias], mean, variance, norm.eps, norm.weight, norm.bias
            )
        return state


def state_width(state: StateDict, layer: str) -> int:
    """N_l, the number of filters."""
    return state[tensor_names(layer)[0]].shape[0]


def mismatch(
    student: Student, teachers: Sequence[Teacher], images: Tensor, gram_share: float
) -> tuple[Tensor, dict[str, float]]:
    """What the student has yet to learn: the loss, and by layer the share not explained.

    By teacher and layer, the mean square of (mapped - target), which is 1 for a student that knows
    nothing, plus ``gram_share`` times the squared distance of the Gram matrices over the target's
    square.
    """
    targets = [teacher.targets(images) for teacher in teachers]
    loss = images.new_zeros(())
    report: dict[str, float] = {}
    for layer, activation in student(images):
        for index, (maps, target) in enumerate(zip(student.maps, targets, strict=True)):
            if layer not in target:
                continue
            goal = target[layer]
            mapped = maps.get_submodule(layer)(thinned(layer, activation[: len(goal)]))
            difference = F.mse_loss(mapped, goal)
            loss = loss + difference
            report[f"{index}.{layer}"] = difference.item()
            if gram_share:
                wanted = gram_matrix(goal)
                error = (gram_matrix(mapped) - wanted).square().sum(dim=(1, 2))
                loss = loss + gram_share * (error / wanted.square().sum(dim=(1, 2))).mean()
    return loss, report


def export(student: Student, pictures: Tensor) -> StateDict:
    """The student in half precision, each filter's mean activation over ``pictures`` made 1."""
    state = normalise(student.folded(), DEEPEST, "avg", "zeros", pictures)
    return {name: tensor.half().contiguous() for name, tensor in state.items()}
