"""A dry run's findings in words, and failed pairs, which a run names in the same way."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.data.words import counted, printable, taken
from pipeline.redaction import redact
from pipeline.settings import JobSettings, StyleSettings

if TYPE_CHECKING:
    from pipeline.engine.dry_run.estimate import Estimate


def print_estimate(
    found: "Estimate", style: StyleSettings, job: JobSettings, price: float | None = None
) -> None:
    """Print three lines on what, how long and how much, then details, on standard output.

    Args:
        found: the dry run's findings.
        style: the job's settings of the style.
        job: the job's other settings.
        price: of a GPU hour, if it is known.
    """
    again = counted(found.again, "failed pair")
    more = f" ({again} will be done again)" if found.again else ""
    print(f"dry run: {taken(found.rows, found.manifest_rows)}, {found.pending} to do{more}")
    if found.pending:
        print(f"time:    {_time(found, price)}")
        if found.calibration is None:
            print("images:  no estimate of their size")
        else:
            print(f"images:  about {_size(found.output_bytes)} of {job.image_format}")
    _print_trouble(found)
    if found.pending:
        _print_details(found, style)
    print(f"nothing was started, nothing was written in {redact(job.output)}")


def as_json(found: "Estimate", style: StyleSettings, price: float | None) -> dict[str, Any]:
    """Return a dry run's findings for programs. What is not known is None."""
    known = found.calibration is not None
    likely, most = found.hours(found.share), found.hours()
    priced = known and price is not None and _on_gpu(found)
    return {
        "manifest_rows": found.manifest_rows,
        "pairs": found.rows,
        "to_do": found.pending,
        "failed_to_do_again": found.again,
        "bad_rows": dict(found.work.faults),
        "sampled": found.sampled,
        "unreadable": dict(found.unreadable),
        "in_use": found.in_use,
        "actors": found.resources.actors,
        "device": found.calibration.device if found.calibration else None,
        "device_hours": likely if known else None,
        "device_hours_at_most": most if known else None,
        "evaluations_of_a_pair": found.share * style.iterations,
        "cost": likely * price if priced and price is not None else None,
        "cost_at_most": most * price if priced and price is not None else None,
        "image_bytes": found.output_bytes if known else None,
    }


def money(amount: float) -> str:
    """Return an amount to the hundredth, small ones to two figures; the currency is the user's."""
    return f"{amount:,.2f}" if amount >= 1 or not amount else f"{amount:.2g}"


def print_faults(counts: Counter[str], named: Sequence[tuple[str, str]]) -> None:
    """So many faults by class, and the pair_id and message of the first ones."""
    for error_class, count in counts.most_common():
        print(f"  {error_class}: {count}")
    for pair_id, message in named:
        print(f"    pair {printable(pair_id)}: {printable(message)}")
    if counts.total() > len(named):
        print("    ...")


def _on_gpu(found: "Estimate") -> bool:
    """Return whether the dry run has timed pairs on a GPU."""
    return found.calibration is not None and not found.calibration.device.startswith("cpu")


def _time(found: "Estimate", price: float | None) -> str:
    """Return how long the job takes and what it costs, in words."""
    if found.calibration is None:
        return "no estimate, as no pair could be timed"
    resources = found.resources
    hours, most = found.hours(found.share), found.hours()
    if not _on_gpu(found):
        if resources.gpus_per_actor:
            return (
                f"about {_duration(hours)} on this machine's CPUs alone; try it on a GPU node for "
                "the time and the cost of the GPUs that the job asks for"
            )
        together = f"with {counted(resources.actors, 'actor')} on this machine's CPUs"
        useless = "; the price of a GPU says nothing here, as the job asks for none"
        more = useless if price is not None else ""
        return f"about {_duration(hours / resources.actors)} {together}{more}"
    gpus = resources.actors * resources.gpus_per_actor
    text = f"about {_duration(hours / gpus)} on {gpus:g} GPUs, {_duration(hours)} of GPU time"
    if price is None:
        return f"{text}; give --price-per-gpu-hour for the cost"
    return f"{text}; cost: about {money(hours * price)}, at most {money(most * price)}"


def _print_trouble(found: "Estimate") -> None:
    """Print what stands in the way of some pairs, or of the job."""
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


def _print_details(found: "Estimate", style: StyleSettings) -> None:
    """Print what the estimate is made of."""
    resources, calibration = found.resources, found.calibration
    print("details:")
    print(
        f"  {counted(found.blocks, 'block')} of up to {counted(resources.rows_per_block, 'pair')}, "
        f"a commit every {counted(resources.rows_per_file, 'pair')}; batches of up to "
        f"{resources.batch_size}: at least {found.batches}; actors: {resources.actors}"
    )
    if calibration is None:
        print("  no estimate of time and size: no pair could be timed")
        return
    megapixels = found.work.area * calibration.shape / found.work.pairs
    print(
        f"  measured here on {calibration.device}, {counted(calibration.timed, 'pair')} in batches "
        f"of {calibration.batch}: {calibration.seconds:.3g} s for an evaluation of a megapixel; "
        f"{megapixels:.3g} megapixels a pair"
    )
    what = f"time of an actor with {counted(resources.threads, 'CPU thread')}"
    if resources.gpus_per_actor:
        what = "GPU time" if _on_gpu(found) else "time of this machine's CPUs"
    print(
        f"  {what}: about {_duration(found.hours(found.share))} "
        f"({found.share * style.iterations:.0f} evaluations a pair), at most "
        f"{_duration(found.hours())} ({style.iterations} evaluations)"
    )


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
