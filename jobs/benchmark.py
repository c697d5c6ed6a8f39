"""Measure what this program costs on this machine, and print it.

    python -m jobs.benchmark                          all parts, more than half an hour
    python -m jobs.benchmark --part style             needs torch alone, no Ray
    python -m jobs.benchmark --part style --weights imagenet --size 512 --json figures.json
    python -m jobs.benchmark --part job               whole jobs, a model of larger ones

Prints a table for each measurement; ``--json`` writes all figures and a description of the machine.
What is compared is measured in turns in one run. Nothing is asserted: these are times.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs._parser import command
from jobs.bench import equal_loss, memory, peers, style
from jobs.bench.alone import Numbers, alone
from pipeline.style.hardware.host_memory import keep_freed_memory
from pipeline.style.network.vgg import half_type

Measurement = tuple[str, Callable[[], Numbers]]
"""A name of ``NAMES``, and what measures."""

NAMES = (
    "floor", "plain loop", "picture", "throughput", "precision", "occupancy", "memory",
    "peers", "efficiency", "stage cost", "engine cost", "planning", "closing", "style cache",
    "whole job", "simulated jobs",
)  # fmt: skip

ONLY = f"these measurements [all]: {', '.join(map(repr, NAMES))}"

MEMORY = [(512, 1, False), (512, 8, False), (1024, 1, False), (1024, 8, False), (2048, 1, True)]
"""Measurements of memory: edge in pixels, slots, and whether memory is ``low``."""


DEVICE_SECONDS = 0.01
"""Seconds that a simulated GPU takes for a picture: 100 a second, the goal at 256 px."""

SIMULATED = [(1, 0.01), (16, 0.1), (16, 0.01), (64, 0.5)]
"""Style actors, and the seconds of each one's device for a picture, of the simulated jobs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print. Returns the exit code."""
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
    if options.part in ("job", "all"):
        devices = [(int(count), seconds) for count, seconds in options.devices or SIMULATED]
        weights = options.weights or "compact"
        parts.append(job_part(options.job_pairs, options.evaluations, devices, weights, device))
    for part in parts:
        for name, measure in part:
            if options.only and name not in options.only:
                continue
            figures = measure()
            found.setdefault(name, []).append(figures)
            print(f"\n{name}\n{lines(figures)}", flush=True)
            if options.json:  # at once: the next one may take an hour, and be stopped
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def style_part(weights: str, size: int, device: str) -> Iterator[Measurement]:
    """Yield the measurements of the method, without Ray, in a process set up as an actor is."""
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
    precisions: tuple[style.Precision, ...] = ("float32", "mixed") if half else ("float32",)
    pairs = 6 if on_gpu or weights == "compact" else 1
    against = equal_loss.against_the_plain_loop(weights, size, device, pairs, precisions)
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
        yield "memory", partial(memory.memory, weights, px, batch, low, device)


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16."""
    # Older versions of PyTorch do not know.
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def engine_part(most_rows: int, device: str) -> Iterator[Measurement]:
    """Yield the measurements of the pipeline around the method, each in a process of its own."""
    # Imported here: the other part runs where Ray is not installed.
    from jobs.bench import bookkeeping, engine, stages

    sizes = (64, 512, 60, "wide") if device == "cuda" else ()
    yield "efficiency", partial(alone, engine.efficiency, *sizes)
    yield "stage cost", partial(alone, stages.stage_cost)
    for rows in (10_000, 100_000):
        if rows <= most_rows:
            yield "engine cost", partial(alone, engine.engine_cost, rows)
    yield "planning", partial(alone, bookkeeping.plan_rows)
    yield "closing", partial(alone, bookkeeping.close_output)
    for cache in (64, 16):
        yield "style cache", partial(alone, engine.cache_hits, cache=cache)


def job_part(
    pairs: int | None,
    evaluations: int,
    simulated: Sequence[tuple[int, float]],
    weights: str,
    device: str,
) -> Iterator[Measurement]:
    """Yield the measurements of whole jobs, each in a process of its own."""
    from jobs.bench import job

    real = pairs or (2_000 if device == "cuda" else 24)
    yield "whole job", partial(alone, job.whole_job, real, 256, evaluations, weights)
    arguments = pairs or 2_000, 256, simulated, DEVICE_SECONDS
    yield "simulated jobs", partial(alone, job.simulated_jobs, *arguments)


def machine(device: str) -> dict[str, Any]:
    """Describe the machine that the figures belong to."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def lines(figures: dict[str, Any]) -> str:
    """Return the figures as text, one a line."""
    return "\n".join(f"  {name:32} {_shown(value)}" for name, value in figures.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=command("benchmark"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=("style", "engine", "job", "all"), default="all")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=ONLY)
    parser.add_argument(
        "--weights",
        help="weights of the method's measurements; 'random' has VGG-19's full width, 'wide' has "
        "VGG-16's and repeats the filters of 'compact' [compact; on a GPU wide]",
    )
    parser.add_argument(
        "--judge", metavar="FILE", help="weights of a trained VGG, to compare pictures with peers'"
    )
    parser.add_argument("--pairs", type=_count, default=2, help="pairs of that comparison [2]")
    parser.add_argument(
        "--pictures", type=Path, help="its folder of content_*.jpg and style_*.jpg [the demo's]"
    )
    parser.add_argument("--size", type=_count, help="edge in pixels [256 on a CPU, 512 on a GPU]")
    parser.add_argument(
        "--rows", type=_count, default=10_000, help="most rows for the engine's cost [10000]"
    )
    parser.add_argument(
        "--job-pairs", type=_count, help="pairs of the whole jobs [2000, a real one on a CPU 24]"
    )
    parser.add_argument(
        "--evaluations",
        type=_count,
        default=100,
        help="evaluations of each pair in the real whole job [100]",
    )
    parser.add_argument(
        "--devices",
        nargs=2,
        type=float,
        action="append",
        metavar=("N", "SECONDS"),
        help="style actors of a simulated job, and seconds of each one's device for a picture; may "
        "be given several times [four jobs of 1 to 64 actors]",
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(argv)
    for count, seconds in options.devices or ():
        if not (count >= 1 and count.is_integer() and 0 < seconds < math.inf):
            parser.error("--devices: give a whole number of style actors and seconds above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
