# PYTHON_ARGCOMPLETE_OK
r"""Check a finished output against its manifest, and each image against its record.

    neural-style verify --manifest ./pairs.parquet --output ./out
    neural-style verify --output ./out
    ray job submit --working-dir . -- python -m jobs.verify \
        --manifest s3://bucket/manifest/ --output s3://bucket/out/

Every row of the manifest must have one record, every ok record an image that is there, has the
recorded digest, opens and has the recorded size; and the output must hold nothing else. Without
--manifest, the one that the job made of two folders is taken. Nothing is written. --limit is that
of the job. The job's --config file will do here too. While a run is at work there, what is found is
shown but is no verdict.

Exit code: 0 sound, 1 not sound, or pairs failed and --allow-errors is not given, 2 no verdict
(nothing could be checked, or a run is at work), 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs import _terminal
from jobs._cli import JOB_KINDS, read_options, reader_may_leave, why_it_broke_off
from jobs._folders import MANIFEST
from jobs._parser import command, new_parser
from pipeline.data.storage import uris
from pipeline.data.words import counted, printable, taken
from pipeline.settings import JobSettings, SettingError, replace

if TYPE_CHECKING:
    from pipeline.engine.audit.verdict import Verdict

OPTIONS = ("manifest", "manifest_format", "output", "limit", "storage_options", "verbose")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the audit and print its verdict; returns the exit code."""
    parser = new_parser("verify", __doc__, "[--manifest URI] --output DIR")
    parser.add_argument(
        "--allow-errors", action="store_true", help="exit code 0 also where pairs failed"
    )
    try:
        (values, _, _), flags = read_options(argv, parser, JOB_KINDS, OPTIONS)
        job = _with_manifest(values)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    # Loaded here, so that --help and a mistyped option answer at once.
    with _terminal.busy("loading Ray", "loaded Ray"):
        from ray.exceptions import RayError

        from pipeline.engine.audit.audit import AuditError, run_audit

    try:
        with _terminal.busy("checking the output", "checked the output"):
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
    return 1 if verdict.faults or (verdict.errors and not flags["allow_errors"]) else 0


def _with_manifest(values: dict[str, Any]) -> JobSettings:
    """Return the settings of the audit.

    Raises:
        SettingError: a value is out of range, or there is no manifest.
    """
    if values.get("manifest"):
        return JobSettings(**values)
    job = JobSettings(**{**values, "manifest": "-"})

    from pipeline.data.errors import RowError
    from pipeline.data.storage import files

    manifest = uris.join(uris.absolute(job.output), MANIFEST)
    try:
        there = files.exists(manifest, job.storage_options or {})
    except RowError as error:
        raise SettingError(str(error)) from error
    if not there:
        raise SettingError(
            f"manifest: is missing, and the output holds none; give the one that "
            f"{command('stylize')} had"
        )
    return replace(job, manifest=manifest)


def print_verdict(verdict: "Verdict") -> None:
    """Print the verdict in a few lines, on standard output."""
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
        failed = f", but {counted(verdict.errors, 'pair')} failed" if verdict.errors else ""
        print(f"sound{failed}: every row has its record and every image is as recorded")
    elif not verdict.at_work:
        print(f"not sound: {counted(verdict.faults.total(), 'fault')}")
    for fault, count in verdict.faults.most_common():
        named = [printable(what) for what in verdict.examples[fault]]
        more = ["..."] if count > len(named) else []
        print(f"  {fault}: {count}  ({'; '.join([*named, *more])})")
    for pair_id, message in verdict.failed:
        print(f"  failed: {printable(pair_id)}: {printable(message)}")
    if verdict.errors > len(verdict.failed):
        print(f"  failed: {verdict.errors - len(verdict.failed)} more; the records name them")
    if verdict.errors:
        print(f"{command('stylize')} with --retry-errors does failed pairs again")


if __name__ == "__main__":
    sys.exit(main())
