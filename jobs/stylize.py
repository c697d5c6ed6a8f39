# PYTHON_ARGCOMPLETE_OK
r"""Make a picture for each pair of a photograph and a painting, from two folders or a manifest.

    neural-style stylize --content ./photos --style ./paintings --output ./out
    neural-style stylize --manifest ./pairs.parquet --output ./out --dry-run
    ray job submit --working-dir . -- python -m jobs.stylize --actors 8 \
        --manifest s3://bucket/pairs/ --output s3://bucket/out/

The same command again makes what is missing: after a stop, or when there are new images in the
folders. Each photograph gets one painting, drawn at random but the same each time;
--styles-per-content N gives it more, --mode cross all of them. The manifest that is made of two
folders lies in OUTPUT/manifest. --dry-run says beforehand what the job would do and cost, from a
few pairs that it tries on this machine, and writes nothing in the output. With --json a program
can read how it ended: one JSON object on standard output.

"neural-style stylize" and "python -m jobs.stylize" are the same; Ray's jobs take the latter.

Exit code: 0 all pairs are done, 1 some of them ended as error records, or the run did not come to
its end, 2 nothing could be started, 130 stopped by Ctrl-C.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from jobs import _folders, _terminal
from jobs._cli import JOB_KINDS, read_options, reader_may_leave, why_it_broke_off
from jobs._ending import Ended, Messages, costs_of, give_up, print_json, print_summary
from jobs._estimate import as_json, print_estimate
from jobs._parser import new_parser
from pipeline import run_job
from pipeline.engine.progress import LOADING_LIBRARIES, OnProgress, Progress
from pipeline.redaction import redact
from pipeline.settings import JobSettings, SettingError, StyleSettings

NEEDS = "(--content DIR --style DIR | --manifest URI) --output DIR"


USUAL = {
    "content": "folder of photographs, local or on s3:// (gs:// and az:// with gcsfs and adlfs)",
    "style": "folder of paintings",
    "manifest": "table of pairs, in place of the two folders",
    "output": "folder of the results",
    "label_from": "parent: keep the photographs' folders as classes",
    "weights": "imagenet (downloaded once), compact (inside this package), or a file [imagenet]",
    "image_size": "long edge of the pictures, px [512]",
    "content_weight": "more keeps more of the photograph [0.03]",
    "preserve_color": "keep the photograph's colours [none]",
    "iterations": "most evaluations of the loss; fewer are faster [60]",
    "image_format": "of the pictures [png]",
    "format": "also make shards for training: webdataset or parquet [files]",
    "retry_errors": "redo pairs that failed before",
    "dry_run": "say what the job would do and cost, then exit",
    "config": "these and all other settings, in YAML or TOML",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = new_parser("stylize", __doc__, NEEDS, USUAL)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check all that is checked before a job starts, say how many pairs there are and what "
        "they will cost, and end; nothing is written in the output",
    )
    add_messages(parser)
    try:
        (job_values, style_values, folders), flags = read_options(arguments, parser, JOB_KINDS)
        messages = Messages(flags["quiet"], flags["json"], flags["price_per_gpu_hour"])
        style = StyleSettings(**style_values)
        job, to_make = _folders.settle(job_values, folders)
    except SettingError as error:  # the options may not have been read
        return give_up(Ended(2, f"error: {error}"), None, as_json="--json" in arguments)
    work = estimate if flags["dry_run"] else run
    if to_make is None:
        return work(style, job, messages)
    # Loaded here, so that --help and a mistyped option answer at once.
    from pipeline.data.errors import RowError
    from pipeline.data.make_manifest.built import BuildError
    from pipeline.data.output.lease import LeaseError, LostError

    with contextlib.ExitStack() as stack:
        try:
            quiet = messages.hushed
            listing = _terminal.busy("listing the two folders", "listed the two folders", quiet)
            with _hushed(messages), listing:
                job = stack.enter_context(_folders.made(to_make, job, dry=flags["dry_run"]))
        except (BuildError, RowError, LeaseError, LostError) as error:
            return give_up(Ended(2, f"error: {error}"), job, as_json=messages.json)
        except KeyboardInterrupt:
            ended = Ended(130, "stopped; nothing was begun")
            return give_up(ended, job, as_json=messages.json)
        return work(style, job, messages)


def add_messages(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the command shows."""
    parser.add_argument(
        "--quiet", action="store_true", help="show warnings, errors and the end, no progress"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="end with one JSON object on standard output, for programs; else as --quiet",
    )
    parser.add_argument(
        "--price-per-gpu-hour",
        type=float,
        metavar="X",
        help="what a GPU costs an hour, to be told the job's cost; docs/clusters.md has examples",
    )


def estimate(style: StyleSettings, job: JobSettings, messages: Messages) -> int:
    """Say what the job would do and cost; returns 1 if some pairs would end as errors, else 0."""

    def work(told: OnProgress) -> Ended:
        from pipeline.engine.dry_run.estimate import dry_run
        from pipeline.engine.job import JobError

        try:
            found = dry_run(style, job, told)
        except JobError as error:
            return Ended(2, f"error: {error}")
        return Ended(1 if found.work.faults or found.unreadable else 0, estimate=found)

    ended = _shown(work, job, messages, "stopped; a dry run leaves nothing behind")
    if ended.message:
        print(ended.message, file=sys.stderr)
    with reader_may_leave():
        if messages.json:
            found = as_json(ended.estimate, style, messages.price) if ended.estimate else {}
            print_json(ended, job, found)
        elif ended.estimate:
            print_estimate(ended.estimate, style, job, messages.price)
    return ended.code


def run(style: StyleSettings, job: JobSettings, messages: Messages) -> int:
    """Run the job and say how it ended; returns the exit code."""
    stopped = "stopped; what is recorded stays, the same command does the rest"
    ended = _shown(lambda told: _run(style, job, told), job, messages, stopped)
    if ended.message:
        print(ended.message, file=sys.stderr)
    with reader_may_leave():
        if messages.json:
            report = redact(ended.report) if ended.report else None
            print_json(ended, job, {**ended.summary, "report": report, **costs_of(ended, messages)})
        elif ended.summary:
            print_summary(ended.summary, job, messages.price, ended.report)
    return ended.code


def _shown(
    work: Callable[[OnProgress], Ended], job: JobSettings, messages: Messages, stopped: str
) -> Ended:
    """Do the work, which is given what takes its progress to the terminal.

    Args:
        work: the work.
        job: its settings.
        messages: what is shown.
        stopped: the message after Ctrl-C.
    """
    try:
        with _hushed(messages), _terminal.shown(quiet=messages.hushed, verbose=job.verbose) as told:
            told(Progress(activity=LOADING_LIBRARIES))
            return work(told)
    except KeyboardInterrupt:
        return Ended(130, stopped)


@contextlib.contextmanager
def _hushed(messages: Messages) -> Iterator[None]:
    """Have the package log warnings only, if no progress is to be shown."""
    logger = logging.getLogger("pipeline")
    level = logger.level
    if messages.hushed:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(style: StyleSettings, job: JobSettings, told: OnProgress) -> Ended:
    # Loaded here, so that --help and a mistyped option answer at once.
    from ray.exceptions import RayError

    from pipeline.data.output.lease import LostError
    from pipeline.engine.job import ClosingError, JobError
    from pipeline.engine.packing.hub import PushError
    from pipeline.engine.packing.run import PackingError

    try:
        summary = run_job(job, style, told)
    except JobError as error:
        return Ended(2, f"error: {error}")
    except (ClosingError, PackingError, PushError, LostError) as error:
        return Ended(1, f"error: {error}")
    except RayError as error:
        return Ended(
            1,
            f"error: the run broke off ({why_it_broke_off(error)}); what is recorded stays, the "
            "same command does the rest, --verbose shows Ray's log",
        )
    whole = summary["ok"] == summary["manifest_rows"] and not summary["duplicates"]
    return Ended(0 if whole else 1, summary=summary, report=summary["report"])


if __name__ == "__main__":
    sys.exit(main())
