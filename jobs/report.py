# PYTHON_ARGCOMPLETE_OK
"""Make the report.html of an output, whether its job is finished or still at work.

    neural-style report ./out
    neural-style report s3://bucket/out/ --title "Paintings, spring"

The report is one file that holds all it shows: pictures, loss curves, speed, errors, settings. It
is written into the output, as a job does at its end. Content and style images are read from the
output's own storage and the object stores, from others only with --allow-schemes. The job's
--config file works here too. Exit code: 0 written, 2 not written, 130 stopped by Ctrl-C.
"""

import sys
from collections.abc import Sequence

from jobs import _terminal
from jobs._cli import JOB_KINDS, read_options
from jobs._parser import new_parser
from pipeline.data.words import counted
from pipeline.redaction import redact
from pipeline.settings import JobSettings, SettingError

OPTIONS = ("output", "title", "thumbnails", "allow_schemes", "storage_options")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and return the exit code."""
    parser = new_parser("report", __doc__, "OUTPUT")
    parser.add_argument(
        "folder", metavar="OUTPUT", nargs="?", help="directory of the results: path or URI"
    )
    try:
        (values, _, _), flags = read_options(argv, parser, JOB_KINDS, OPTIONS)
        given = sys.argv[1:] if argv is None else argv
        if flags["folder"] and any(word.split("=")[0] == "--output" for word in given):
            raise SettingError("output: is given twice; leave out --output, or the word without it")
        output = flags["folder"] or values.get("output", "")
        # Settings have a manifest; a report reads none.
        job = JobSettings(**(values | {"output": output, "manifest": "-"}))
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from pipeline.report.page import ReportError, make_report

    try:
        with _terminal.busy("writing report.html", "wrote report.html"):
            made = make_report(
                job.output,
                job.storage_options or {},
                thumbnails=job.thumbnails,
                title=job.title,
                allowed=frozenset(job.allow_schemes),
            )
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; no report was written", file=sys.stderr)
        return 130
    print(
        f"{redact(made.uri)}: {counted(made.pairs, 'pair')}, {made.listed} listed, "
        f"{made.pictured} with thumbnails ({made.bytes / 1e6:.1f} MB)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
