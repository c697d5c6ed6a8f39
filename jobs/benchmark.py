"""Measure what the product costs, on this machine, and print it.

    python -m jobs.benchmark                          the method and the engine, some 25 minutes
    python -m jobs.benchmark --part style             needs torch alone, no Ray
    python -m jobs.benchmark --part style --weights imagenet --size 512 --json figures.json

Prints a table for each measurement; ``--json`` writes all figures and the machine's. What is
compared is measured in turns in one run. Nothing is asserted: these are times.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs._cli import command
from jobs.bench import peers, plain, style
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.network.vgg import half_type

Measurement = tuple[str, Callable[[], dict[str, Any]]]

NAMES = (
    "floor", "plain loop", "picture", "throughput", "precision", "occupancy", "memory",
    "peers", "efficiency", "engine cost", "planning", "style cache",
)  # fmt: skip

ONLY = f"these measurements [all]: {', '.join(map(repr, NAMES))}"

MEMORY = [(512, 1, False), (512, 8, False), (1024, 1, False), (1024, 8, False), (2048, 1, True)]
"""Sides in px, images side by side, and whether ``--memory low``: what is measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    options = parse(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = options.size or (512 if device == "cuda" else 256)
    found: dict[str, Any] = {"machine": machine(device)}
    print(" ".join(f"{name}: {value}" for name, value in found["machine"].items()), flush=True)
    parts: list[Iterator[Measurement]] = []
    if options.part in ("style", "all"):
        weights = options.weights or ("wide" if device == "cuda" else "compact")
        parts.append(style_part(weights, size, device))
        if options.judge is None:
            print("peers: not measured; give --judge FILE, a trained VGG-19 or VGG-16", flush=True)
        else:
            folder, pairs = options.pictures, options.pairs
            compared = peers.against_the_peers(options.judge, size, device, pairs, folder)
            parts.append(("peers", partial(next, compared)) for _ in range(pairs))
    if options.part in ("engine", "all"):
        parts.append(engine_part(options.rows, device))
    for part in parts:
        for name, measure in part:
            if options.only and name not in options.only:
                continue
            figures = measure()
            found.setdefault(name, []).append(figures)
            print(f"\n{name}\n{lines(figures)}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def style_part(weights: str, size: int, device: str) -> Iterator[Measurement]:
    """The method, without Ray, in a process that is set up as an actor is."""
    keep_freed_memory()
    on_gpu = device == "cuda"
    rounds = 60 if weights == "compact" else 20 if on_gpu else 8
    # Processors without bfloat16 emulate it, at a twentieth of the speed.
    half = on_gpu or has_bfloat16()
    narrow = half_type(torch.device(device))
    for dtype in (torch.float32, narrow) if half else (torch.float32,):
        for batch in (1, 8) if on_gpu else (1, 4):
            measure = partial(style.floor, weights, size, batch, rounds, device, dtype)
            yield "floor", measure
    precisions = ("float32", "mixed") if half else ("float32",)
    pairs = 6 if on_gpu or weights == "compact" else 1
    against = plain.against_the_plain_loop(weights, size, device, pairs, precisions)
    with contextlib.closing(against) as comparisons:  # its actors end before others are measured
        for _ in range(2 * len(precisions)):
            yield "plain loop", lambda: next(comparisons)
    yield "picture", partial(style.picture, weights, size, device)
    if on_gpu:
        for kind in precisions:
            yield "throughput", partial(style.throughput, weights, size, 8, 64, device, kind)
        yield "precision", partial(style.precision, weights, size, 8, device)
    else:
        edge, count = (128, 8) if half else (64, 3)
        yield "precision", partial(style.precision, "compact", edge, count, device)
    yield "occupancy", style.occupancy
    for px, batch, low in MEMORY:
        yield "memory", partial(style.memory, weights, px, batch, low, device)


def has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not know
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def engine_part(most_rows: int, device: str) -> Iterator[Measurement]:
    """The pipeline around the method, on a Ray of its own."""
    # Loaded here: the other part runs where there is no Ray.
    from jobs.bench import engine

    if device == "cuda":
        yield "efficiency", partial(engine.efficiency, 64, 512, 60, "wide")
    else:
        yield "efficiency", engine.efficiency
    for rows in (1_000, 10_000, 100_000):
        if rows <= most_rows:
            yield "engine cost", lambda rows=rows: engine.engine_cost(rows)
    yield "planning", engine.planning
    for cache in (64, 16):
        yield "style cache", lambda cache=cache: engine.cache_hits(cache=cache)


def machine(device: str) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def lines(figures: dict[str, Any]) -> str:
    """One figure a line."""
    return "\n".join(f"  {name:32} {_shown(value)}" for name, value in figures.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=command("benchmark"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=("style", "engine", "all"), default="all")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=ONLY)
    parser.add_argument(
        "--weights",
        help="of the method's measurements; 'random' has VGG-19's full width, 'wide' VGG-16's, "
        "with the filters of 'compact', repeated [compact; on a GPU wide]",
    )
    parser.add_argument(
        "--judge", metavar="FILE", help="weights of a trained VGG, to compare pictures with peers'"
    )
    parser.add_argument("--pairs", type=int, default=2, help="of that comparison [2]")
    parser.add_argument(
        "--pictures", type=Path, help="folder of content_*.jpg and style_*.jpg for it [the demo's]"
    )
    parser.add_argument("--size", type=int, help="px [256 on a CPU, 512 on a GPU]")
    parser.add_argument(
        "--rows", type=int, default=10_000, help="most rows of the engine's cost [10000]"
    )
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
