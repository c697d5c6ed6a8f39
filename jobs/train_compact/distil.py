r"""Fit the compact network to a teacher: it has VGG-16's layers with few filters.

    python -m jobs.train_compact.distil --teacher imagenet --output compact.safetensors
    python -m jobs.train_compact.distil --teacher vgg16.pth --pictures photographs \
        --stamps stamps --output compact.safetensors

``jobs.train_compact.fitting`` explains the method. It takes minutes. On one machine the same
options give the same file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from tqdm import tqdm

from jobs.train_compact.fitting import DEEPEST, WIDTHS, fitted, read_teacher
from jobs.train_compact.training_pictures import (
    bundled_pictures,
    collages,
    crops,
    folder_pictures,
    painted_pictures,
)
from pipeline.style.network.vgg import VGG, StateDict
from pipeline.style.network.weights import WeightsError

CROP = 192
"""Edge of the crops in pixels."""


def load_teacher(source: str) -> VGG:
    """Return the teacher in bfloat16.

    Args:
        source: see ``read_teacher``.

    Raises:
        WeightsError: it cannot be loaded, does not reach conv5_1, or has no zero padding.
    """
    state, deepest, padding = read_teacher(source)
    if deepest != DEEPEST:
        raise WeightsError(f"--teacher {source}: ends at {deepest}; a teacher must reach {DEEPEST}")
    if padding != "zeros":
        raise WeightsError(f"--teacher {source}: a teacher's padding must be zeros")
    return VGG(state, deepest_layer=deepest).to(torch.bfloat16)


def fit(teacher: VGG, images: Tensor, samples: int, seed: int) -> StateDict:
    """Return the weights of a network that is fitted over images (B, 3, H, W), RGB in [0, 1]."""
    state: StateDict = {}
    layers = fitted(teacher, images, samples, torch.Generator().manual_seed(seed))
    for _, tensors in tqdm(layers, total=len(WIDTHS), unit="layer"):
        state |= tensors
    return state


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train_compact.distil",
        description="Fit the compact network to a teacher.",
    )
    parser.add_argument(
        "--teacher", required=True, help="'imagenet' or a .pth or .safetensors file"
    )
    parser.add_argument(
        "--pictures",
        action="append",
        type=Path,
        default=[],
        help="a folder with .jpg, .png and .webp files, at any depth; may be given several times",
    )
    parser.add_argument(
        "--hold-out", action="append", default=[], help="name of a file in them that is not used"
    )
    parser.add_argument(
        "--stamps", type=Path, help="a folder with .png files of cut-out things, with transparency"
    )
    parser.add_argument("--painted", type=int, default=96, help="pictures painted by code")
    parser.add_argument("--collages", type=int, default=192, help="pictures made with --stamps")
    parser.add_argument("--crops", type=int, default=640, help="crops of 192 px of all pictures")
    parser.add_argument(
        "--samples", type=int, default=200_000, help="positions over which a layer is fitted"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Fit the network and write its file. Returns the exit code."""
    args = parse(argv)
    try:
        teacher = load_teacher(args.teacher)
        photographs = folder_pictures(args.pictures, args.hold_out) + bundled_pictures()
    except (OSError, ValueError) as error:
        print(f"distil: {error}", file=sys.stderr)
        return 2
    pool = photographs + painted_pictures(args.painted, args.seed, photographs)
    if args.stamps:
        pool += collages(args.collages, args.seed, args.stamps, photographs)
    images = crops(pool, args.crops, CROP, (args.seed, 0))
    state = fit(teacher, images, args.samples, args.seed)
    state = {name: tensor.half().contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(state, args.output, {"format": "pt", "seed": str(args.seed)})
    print(f"{args.output}: {sum(tensor.numel() for tensor in state.values())} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
