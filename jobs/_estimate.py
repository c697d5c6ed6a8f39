"""A dry run's findings in words, and failed pairs, which a run names in the same way."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.data.redaction import redact
from pipeline.data.words import counted, printable, taken
from pipeline.settings import JobSettings, StyleSettings

if TYPE_CHECKING:
    from pipeline.engine.dry_run.estimate import Estimate


def print_estimate(found: "Estimate", style: StyleSettings, job: JobSettings) -> None:
    """A few lines on standard output."""
    print(f"dry run: nothing was started, nothing was written in {redact(job.output)}")
    print(f"{taken(found.rows, found.manifest_rows)}, {found.pending} to do")
    if found.in_use:
        print("a run works in this output, or was killed on another machine: the job may wait")
    if found.work.faults:
        bad = counted(found.work.faults.total(), "bad row")
        print(f"{bad} among the pairs to do would be error records:")
        print_faults(found.work.faults, found.work.bad)
    if found.unreadable:
        loaded = counted(found.sampled, "pair")
        print(f"of {loaded} that should be loaded, {found.unreadable.total()} cannot be:")
        print_faults(found.unreadable, found.unread)
    if not found.pending:
        return
    resources = found.resources
    print(
        f"{counted(found.blocks, 'block')} of up to {counted(resources.rows_per_block, 'pair')}, a "
        f"commit every {counted(resources.rows_per_file, 'pair')}; batches of up to "
        f"{resources.batch_size}: at least {found.batches}; actors: {resources.actors}"
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
        f"measured here on {calibration.device}, {counted(calibration.timed, 'pair')} in batches "
        f"of {calibration.batch}: {calibration.seconds:.3g} s for an evaluation of a megapixel; "
        f"{megapixels:.3g} megapixels a pair"
    )
    gpu = not calibration.device.startswith("cpu")
    threads = counted(found.resources.threads, "CPU thread")
    what = "GPU time" if gpu else f"time of an actor with {threads}"
    likely, most = found.hours(found.share), found.hours()
    print(
        f"{what}: about {_duration(likely)} ({found.share * style.iterations:.0f} evaluations a "
        f"pair), at most {_duration(most)} ({style.iterations} evaluations)"
    )
    if found.resources.actors > 1 and not gpu:
        together = _duration(likely / found.resources.actors)
        print(f"with {found.resources.actors} actors: about {together}")
    if found.resources.gpus_per_actor and not gpu:
        print("the job asks for GPUs and there is none here: try it on a GPU node for its time")
    print(f"images: about {_size(found.output_bytes)} of {job.image_format}")


def _duration(hours: float) -> str:
    seconds = 3600 * hours
    for unit, length in (("s", 1.0), ("min", 60.0)):
        if seconds < 120 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{hours:.3g} h"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
