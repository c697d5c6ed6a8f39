"""A dry run's findings in words, and failed pairs, which a run names in the same way."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs._cli import printable
from pipeline.settings import JobSettings, StyleSettings

if TYPE_CHECKING:
    from pipeline.engine.estimate import Estimate


def print_estimate(found: "Estimate", style: StyleSettings, job: JobSettings) -> None:
    """A few lines on standard output."""
    print(f"dry run: nothing was started, nothing was written in {job.output}")
    print(f"{found.rows} pairs in the manifest, {found.pending} to do")
    if found.in_use:
        print("a run works in this output, or was killed on another machine: the job may wait")
    if found.work.faults:
        print(f"{found.work.faults.total()} pairs to do are bad rows and would be error records:")
        print_faults(found.work.faults, found.work.bad)
    if found.unreadable:
        print(f"of {found.sampled} pairs that were loaded, {found.unreadable.total()} cannot be:")
        print_faults(found.unreadable, found.unread)
    if not found.pending:
        return
    resources = found.resources
    print(
        f"{found.blocks} blocks of up to {resources.rows_per_block} pairs, a commit each; at least "
        f"{found.batches} batches of up to {resources.batch_size}; actors: {resources.actors}"
    )
    _print_cost(found, style, job)


def print_faults(counts: Counter[str], named: Sequence[tuple[str, str]]) -> None:
    """So many faults by class, and the pair_id and message of the first ones."""
    for error_class, count in counts.most_common():
        print(f"  {error_class}: {count}")
    for pair_id, message in named:
        print(f"    pair {printable(pair_id)}: {printable(message)}")
    if counts.total() > len(named):
        print("    ...")


def _print_cost(found: "Estimate", style: StyleSettings, job: JobSettings) -> None:
    calibration = found.calibration
    if calibration is None:
        print("no estimate of time and size: no pair could be timed")
        return
    megapixels = found.work.area * calibration.shape / found.work.pairs
    print(
        f"measured here on {calibration.device}, {calibration.timed} pairs in batches of "
        f"{calibration.batch}: {calibration.seconds:.3g} s for an evaluation of a megapixel; "
        f"{megapixels:.3g} megapixels a pair"
    )
    gpu = not calibration.device.startswith("cpu")
    unit = "GPU hours" if gpu else f"hours of an actor with {found.resources.threads} CPU threads"
    likely, most = found.hours(found.share), found.hours()
    print(
        f"{unit}: about {likely:.3g} ({found.share * style.iterations:.0f} evaluations a pair), at "
        f"most {most:.3g} ({style.iterations} evaluations)"
    )
    if found.resources.actors > 1 and not gpu:
        print(
            f"with {found.resources.actors} actors: about {likely / found.resources.actors:.3g} h"
        )
    if found.resources.gpus_per_actor and not gpu:
        print("the job asks for GPUs and there is none here: try it on a GPU node for GPU hours")
    print(f"images: about {_size(found.output_bytes)} of {job.image_format}")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
