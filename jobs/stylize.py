# PYTHON_ARGCOMPLETE_OK
"""Stylise every pair of a manifest.

    python -m jobs.stylize --manifest ./pairs.parquet --output ./out
    ray job submit --working-dir . -- python -m jobs.stylize \\
        --manifest s3://bucket/manifest/ --output s3://bucket/out/ --gpus-per-actor 1 --actors 8

The same command again does what is missing. --dry-run says beforehand what the job would do and
cost, from a few pairs that it tries on this machine, and writes nothing.

Exit code: 0 all pairs are done, 1 some of them ended as error records, or the run did not come to
its end, 2 nothing could be started, 130 stopped by Ctrl-C.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobs._cli import OF_A_JOB, new_parser, read_options, reader_may_leave, why_it_broke_off
from jobs._estimate import print_estimate, print_faults
from jobs.report import write_report
from pipeline.data.redaction import redact
from pipeline.data.words import counted
from pipeline.settings import JobSettings, SettingError, StyleSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    parser = new_parser("stylize", __doc__)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check all that is checked before a job starts, say how many pairs there are and what "
        "they will cost, and end; nothing is written in the output",
    )
    try:
        (job_values, style_values), flags = read_options(argv, parser, OF_A_JOB)
        style, job = StyleSettings(**style_values), JobSettings(**job_values)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return estimate(style, job) if flags["dry_run"] else run(style, job)


def estimate(style: StyleSettings, job: JobSettings) -> int:
    """Say what the job would do and cost; returns 1 if some pairs would end as errors, else 0."""
    from pipeline.engine.dry_run.estimate import dry_run
    from pipeline.engine.job import JobError

    try:
        found = dry_run(style, job)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    with reader_may_leave():
        print_estimate(found, style, job)
    return 1 if found.work.faults or found.unreadable else 0


def run(style: StyleSettings, job: JobSettings) -> int:
    """Run the job and say how it ended; returns the exit code."""
    # Loaded here, so that --help and a mistyped option answer at once.
    from ray.exceptions import RayError

    from pipeline.data.output.lease import LostError
    from pipeline.engine.job import ClosingError, JobError, run_job
    from pipeline.engine.packing.run import PackingError

    try:
        summary = run_job(style, job)
        report = write_report(job) if job.report else None
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ClosingError, PackingError, LostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what is recorded stays, the same command does the rest", file=sys.stderr)
        return 130
    except RayError as error:
        reason = why_it_broke_off(error)
        print(
            f"error: the run broke off ({reason}); what is recorded stays, the same command does "
            "the rest, --verbose shows Ray's log",
            file=sys.stderr,
        )
        return 1
    with reader_may_leave():
        print_summary(summary, job.output)
        if report:
            print(f"open {redact(report)} to look at them")
    return 0 if summary["ok"] == summary["manifest_rows"] and not summary["duplicates"] else 1


def print_summary(summary: dict[str, Any], output: str) -> None:
    """The job in a few lines, on standard output."""
    errors, pairs = counted(summary["error"], "error"), counted(summary["manifest_rows"], "pair")
    print(f"{summary['ok']} ok, {errors} of {pairs}")
    named = [(row["pair_id"], row["error_message"]) for row in summary["first_errors"]]
    print_faults(Counter(summary["errors_by_class"]), named)
    if summary["missing"]:
        print(f"  missing: {summary['missing']} records; run the same command again")
    unknown = summary["pairs"] - summary["ok"] - summary["error"]
    if unknown:
        print(
            f"  unknown: {counted(unknown, 'record')} with a status that no job writes; python -m "
            "jobs.verify names them: delete the records files that hold them, and run the same "
            "command again"
        )
    if summary["duplicates"]:
        print(
            f"  duplicates: {summary['duplicates']} records too many; python -m jobs.verify names "
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
    print(f"images, records and summary.json lie in {redact(output)}")
    packed = summary.get("packed")
    if packed:
        images, shards = counted(packed["samples"], "image"), counted(packed["shards"], "shard")
        print(f"{images} in {shards}: {packed['folder']}")
    if summary["error"]:
        print("all records with status 'error' say why; --retry-errors does these pairs again")


if __name__ == "__main__":
    sys.exit(main())
