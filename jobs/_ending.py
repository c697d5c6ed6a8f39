"""What ``stylize`` says at its end: pictures, errors, seconds, costs, and the next command."""

import json
import math
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs import _folders
from jobs._cli import reader_may_leave
from jobs._estimate import money, print_faults
from jobs._parser import command
from pipeline.data.storage import uris
from pipeline.data.words import counted, duration
from pipeline.redaction import redact
from pipeline.settings import JobSettings, SettingError, in_short

if TYPE_CHECKING:
    from pipeline.engine.dry_run.estimate import Estimate


@dataclass(frozen=True)
class Messages:
    """What the command says.

    quiet: errors and the end only. json: the end is one JSON object. price: of a GPU hour; the
    costs are in its currency.

    Raises:
        SettingError: the price is none.
    """

    quiet: bool = False
    json: bool = False
    price: float | None = None

    def __post_init__(self) -> None:
        if self.price is not None and not 0 <= self.price < math.inf:
            raise SettingError(
                f"price_per_gpu_hour: {in_short(self.price)} is no price; give a number from 0 on, "
                "as 2.50"
            )

    @property
    def hushed(self) -> bool:
        """Whether no progress is shown."""
        return self.quiet or self.json


@dataclass(frozen=True)
class Ended:
    """How the command ended. message: why, where it did not come to its end."""

    code: int
    message: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    report: str | None = None
    estimate: "Estimate | None" = None


def costs_of(ended: Ended, messages: Messages) -> dict[str, float | None]:
    """Return what the GPUs of this run cost, and what 1,000 of its pairs do; None if unknown."""
    made, hours = ended.summary.get("last_run", {}).get("pairs"), ended.summary.get("gpu_hours")
    if messages.price is None or not made or not hours:
        return {"cost": None, "cost_per_1000": None}
    cost = hours * messages.price
    return {"cost": cost, "cost_per_1000": 1000 * cost / made}


def print_json(ended: Ended, job: JobSettings | None, more: dict[str, Any]) -> None:
    """Print one JSON object, on standard output: how the command ended, and ``more``."""
    output = job and redact(job.output)
    print(json.dumps({"exit_code": ended.code, "message": ended.message or None, "output": output,
                      **more}))  # fmt: skip


def give_up(ended: Ended, job: JobSettings | None, *, as_json: bool) -> int:
    """Say why nothing was begun; returns the exit code.

    Args:
        ended: with a message.
        job: its settings, if they could be read.
        as_json: say it in a JSON object too.
    """
    print(ended.message, file=sys.stderr)
    if as_json:
        with reader_may_leave():
            print_json(ended, job, {})
    return ended.code


def print_summary(
    summary: dict[str, Any], job: JobSettings, price: float | None, report: str | None
) -> None:
    """Print the job in a few lines, on standard output.

    Args:
        summary: what ``run_job`` returns.
        job: its settings.
        price: of a GPU hour, if it is known.
        report: where report.html is, if there is one.
    """
    output = redact(job.output)
    folder = output.rstrip("/")
    errors, pairs = counted(summary["error"], "error"), counted(summary["manifest_rows"], "pair")
    print(f"{counted(summary['ok'], 'picture')} and {errors} from {pairs}")
    named = [(row["pair_id"], row["error_message"]) for row in summary["first_errors"]]
    print_faults(Counter(summary["errors_by_class"]), named)
    if summary["missing"]:
        print(f"  missing: {summary['missing']} records; run the same command again")
    unknown = summary["pairs"] - summary["ok"] - summary["error"]
    if unknown:
        print(
            f"  unknown: {counted(unknown, 'record')} with a status that no job writes; "
            f"{command('verify')} names them: delete the records files that hold them, and run "
            "the same command again"
        )
    if summary["duplicates"]:
        print(
            f"  duplicates: {summary['duplicates']} records too many; {command('verify')} names "
            "their pairs: delete the records files that hold them, and run the same command again"
        )
    if summary["with_warnings"]:
        print(
            f"  warnings: {counted(summary['with_warnings'], 'pair')} of damaged pictures, which "
            "were read; the column warnings of the records says what is wrong with them"
        )
    other = summary["other_pairs"]
    if sum(other.values()):
        print(
            f"beside them {other['ok']} ok, {other['error']} errors of other pairs are in this "
            "output: of other manifests, or of rows that have another pair_id by now"
        )
    _print_last_run(summary, price)
    print(f"pictures:  {folder}/images")
    packed = summary.get("packed")
    if packed:
        images, shards = counted(packed["samples"], "image"), counted(packed["shards"], "shard")
        print(f"shards:    {folder}/{packed['folder'].rpartition('/')[2]} ({images} in {shards})")
    pushed = summary.get("pushed")
    if pushed:
        uploaded = f"{counted(pushed['uploaded'], 'file')} uploaded"
        print(f"hub:       {pushed['repository']} ({uploaded}, {pushed['there']} there before)")
    if report:
        print(f"look:      open {folder}/{report.rpartition('/')[2]}")
    if summary["error"] or summary["missing"]:
        again = " with --retry-errors" if summary["error"] else ""
        why = "; each record with status 'error' says why" if summary["error"] else ""
        print(f"next:      the same command{again} does what is missing{why}")
    else:
        own = job.manifest == uris.join(uris.absolute(job.output), _folders.MANIFEST)
        words = [] if own else ["--manifest", redact(job.manifest)]
        words += ["--output", output]
        words += ["--limit", str(job.limit)] if job.limit else []
        print(f"next:      {command('verify')} {shlex.join(words)}")


def _print_last_run(summary: dict[str, Any], price: float | None) -> None:
    """Print what this run did, and what its GPUs cost."""
    last = summary["last_run"]
    made, seconds = last["pairs"], last["seconds"]
    if not made:
        print("this run:  nothing was left to do")
        return
    print(
        f"this run:  {counted(made, 'pair')} in {duration(seconds)}, "
        f"{60 * made / seconds:.3g} a minute"
    )
    hours = summary["gpu_hours"]
    if price is not None and hours:
        print(
            f"cost:      about {money(1000 * hours * price / made)} for 1,000 pairs: "
            f"{hours:.3g} GPU hours at {money(price)}, without the machines' start"
        )
