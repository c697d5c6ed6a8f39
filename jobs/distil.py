"""Train the compact network: VGG-19's form with a quarter of the filters, taught by a wider one.

    python -m jobs.distil --teacher imagenet --output compact.safetensors
    python -m jobs.distil --teacher vgg19.pth --teacher small.pth:reflect --pictures photographs \\
        --steps 8000 --checkpoint distil.pt --resume --output compact.safetensors

The teachers, the student and its loss: ``pipeline.style.distillation``. A run is a function of
its options (``--seed`` among them) on one machine; a killed one goes on with ``--resume``.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from tqdm import tqdm

from jobs.training_pictures import (
    Picture,
    bundled_pictures,
    crops,
    folder_pictures,
    painted_pictures,
)
from pipeline.style.distillation import Student, Teacher, export, load_teacher, mismatch

CROP_SIZES = (96, 128, 192)
WARM_UP = 100  # steps
SAVE_EVERY = 250  # steps
PROBES = 48  # crops over which activations are measured before and after training


def learning_rate(step: int, steps: int, highest: float) -> float:
    """A linear warm-up, then half a cosine down to a hundredth."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return highest * min(1.0, (step + 1) / WARM_UP) * max(0.01, cosine)


def train(
    args: argparse.Namespace, teachers: Sequence[Teacher], pool: Sequence[Picture]
) -> Student:
    """Train from step 0 or from the checkpoint, and save one on the way."""
    student = Student(teachers, args.seed)
    optimizer = torch.optim.Adam(student.parameters())
    first = 0
    if args.resume and args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        if [saved["teachers"], saved["seed"]] != [args.teacher, args.seed]:
            raise ValueError(
                f"--resume {args.checkpoint}: is of teachers {saved['teachers']}, seed "
                f"{saved['seed']}; give the same, or another --checkpoint"
            )
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    student = student.train().to(memory_format=torch.channels_last)
    smooth: dict[str, float] = {}
    bar = tqdm(range(first, args.steps), initial=first, total=args.steps, unit="step")
    for step in bar:
        size = CROP_SIZES[step % len(CROP_SIZES)]
        count = max(1, round(args.batch * (CROP_SIZES[0] / size) ** 2))
        images = crops(pool, count, size, (args.seed, step))
        images = images.contiguous(memory_format=torch.channels_last)  # half the time on a CPU
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.learning_rate)
        loss, report = mismatch(student, teachers, images, args.gram_share)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        for layer, value in report.items():
            smooth[layer] = value + 0.98 * (smooth.get(layer, value) - value)
        bar.set_postfix(unexplained=f"{sum(smooth.values()) / len(smooth):.3f}")
        if step + 1 == args.steps or (step + 1) % SAVE_EVERY == 0:
            bar.write(" ".join(f"{layer}={value:.3f}" for layer, value in smooth.items()))
            save(
                args.checkpoint,
                {
                    "student": student.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                    "teachers": args.teacher,
                    "seed": args.seed,
                },
            )
    return student.eval()


def save(path: Path, checkpoint: dict[str, object]) -> None:
    """Replace the checkpoint at once, so that a kill leaves the old one or the new one."""
    scratch = path.with_suffix(".tmp")
    torch.save(checkpoint, scratch)
    os.replace(scratch, path)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jobs.distil",
        description="Train the compact network against one or more teachers.",
    )
    parser.add_argument(
        "--teacher",
        action="append",
        required=True,
        help="'imagenet' or FILE[:PADDING] (zeros, replicate, reflect); may be given several times",
    )
    parser.add_argument(
        "--pictures", action="append", type=Path, default=[], help="a folder of .jpg and .png files"
    )
    parser.add_argument(
        "--hold-out", action="append", default=[], help="name of a file there not to train on"
    )
    parser.add_argument("--painted", type=int, default=48, help="pictures painted by code")
    parser.add_argument("--steps", type=int, default=8000, help="updates of the student's weights")
    parser.add_argument("--batch", type=int, default=8, help="crops of 96 px per step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="Adam's, at its highest")
    parser.add_argument(
        "--gram-share", type=float, default=0.5, help="weight of the Gram terms; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("distil.pt"))
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, if there is one"
    )
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        photographs = folder_pictures(args.pictures, args.hold_out) + bundled_pictures()
        pool = photographs + painted_pictures(args.painted, args.seed, photographs)
        probe = crops(pool, PROBES, 128, (args.seed, 2**32))
        teachers = [load_teacher(source, probe) for source in args.teacher]
        student = train(args, teachers, pool)
    except (OSError, ValueError) as error:
        print(f"distil: {error}", file=sys.stderr)
        return 2
    state = export(student, crops(pool, PROBES, 128, (args.seed, 2**32 + 1)))
    metadata = {"format": "pt", "seed": str(args.seed), "steps": str(args.steps)}
    safetensors.torch.save_file(state, args.output, metadata)
    print(f"{args.output}: {sum(tensor.numel() for tensor in state.values())} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
