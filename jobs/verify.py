# PYTHON_ARGCOMPLETE_OK
"""Check a finished output against its manifest.

    python -m jobs.verify --manifest ./pairs.parquet --output ./out
    ray job submit --working-dir . -- python -m jobs.verify \\
        --manifest s3://bucket/manifest/ --output s3://bucket/out/

Every row of the manifest must have one record (an error record will do), every ok record an image
that is there, has the recorded digest, opens and has the recorded size; and nothing else may lie
in the output. Nothing is written. --limit is that of the job. The job's --config file will do here
too. While a run is at work there, what is found is shown but is no verdict.

Exit code: 0 sound, 1 not sound, 2 no verdict (nothing could be checked, or a run is at work), 130
stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs._cli import new_parser, parse, reader_may_leave, why_it_broke_off
from pipeline.data.words import counted, printable, taken
from pipeline.settings import SettingError

if TYPE_CHECKING:
    from pipeline.engine.audit.audit import Verdict

OPTIONS = ("manifest", "manifest_format", "output", "limit", "storage_options", "verbose")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the audit and print its verdict; returns the exit code."""
    parser = new_parser("verify", __doc__)
    try:
        _, job = parse(argv, parser, OPTIONS)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    # Loaded here, so that --help and a mistyped option answer at once.
    from ray.exceptions import RayError

    from pipeline.engine.audit.audit import AuditError, run_audit

    try:
        verdict = run_audit(job)
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RayError as error:
        reason = why_it_broke_off(error)
        print(f"error: the audit broke off ({reason}); --verbose shows Ray's log", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; there is no verdict", file=sys.stderr)
        return 130
    with reader_may_leave():
        print_verdict(verdict)
    if verdict.at_work:
        return 2
    return 1 if verdict.faults else 0


def print_verdict(verdict: "Verdict") -> None:
    """The verdict in a few lines, on standard output."""
    print(
        f"{taken(verdict.pairs, verdict.manifest_rows)}: {verdict.ok} ok, "
        f"{counted(verdict.errors, 'error')}; {counted(verdict.images, 'image')} checked "
        f"({verdict.image_bytes / 1e6:.1f} MB)"
    )
    if verdict.at_work:
        print(
            f"no verdict: a run ({verdict.at_work}) is at work in this output, or was killed on "
            "another machine, and what it has not finished looks like faults; verify again after "
            "its end, or run the same job again if it was killed"
        )
    if not verdict.faults and not verdict.at_work:
        print("sound: every row has its record and every image is as recorded")
        return
    if not verdict.at_work:
        print(f"not sound: {counted(verdict.faults.total(), 'fault')}")
    for fault, count in verdict.faults.most_common():
        named = [printable(what) for what in verdict.examples[fault]]
        more = ["..."] if count > len(named) else []
        print(f"  {fault}: {count}  ({'; '.join([*named, *more])})")


if __name__ == "__main__":
    sys.exit(main())
