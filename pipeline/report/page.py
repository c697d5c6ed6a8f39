"""``report.html`` from an output's records, settings and pictures."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.output import records
from pipeline.data.storage import failures, files, uris
from pipeline.report.curves import aggregate
from pipeline.report.describe import describe
from pipeline.report.facts import gather
from pipeline.report.grid import choose_grid
from pipeline.report.pairs import read_pairs
from pipeline.report.pictures import number_pictures, wanted_pictures
from pipeline.report.render import render
from pipeline.report.sample import choose_pairs
from pipeline.report.thumbnails import make_thumbnails


class ReportError(ValueError):
    """There is nothing to report on, or it cannot be read or written. The message says which."""


@dataclass(frozen=True)
class Made:
    """A report that was written: its URI and length, and pairs recorded, listed and pictured."""

    uri: str
    bytes: int
    pairs: int
    listed: int
    pictured: int


def make_report(
    output: str,
    options: files.StorageOptions,
    *,
    thumbnails: int,
    title: str | None = None,
    allowed: frozenset[str] = frozenset(),
) -> Made:
    """Write ``report.html`` into the output of a job, finished or under way.

    It takes some 30 bytes of memory for each record, and about 100 MB for what the page shows.

    Args:
        output: Path or URI of the output.
        options: fsspec options by scheme.
        thumbnails: Most pairs whose pictures are embedded.
        title: Heading of the page; if None, the job's title or the name of the output's folder.
        allowed: URI schemes from which content and style images may be read, besides the output's
            own and the object stores'.

    Raises:
        ReportError: It is no job's output, or the storage refused or failed.
    """
    output = uris.absolute(output)
    try:
        job = _read_json(uris.join(output, records.JOB), options)
        if job is None:
            shown = uris.redact(uris.join(output, records.JOB))
            raise ReportError(f"output: {shown} does not exist; is this a job's output?")
        summary = _read_json(uris.join(output, records.SUMMARY), options)
        facts = gather(output, options)
        settings = job.get("settings") or {}
        pairs = read_pairs(output, options, choose_pairs(facts), settings, facts.longest)
        grid = choose_grid(pairs)
        schemes = frozenset({uris.scheme_of(output), *uris.OBJECT_STORES, *allowed})
        wanted = wanted_pictures(pairs, facts, grid, output)[:thumbnails]
        made = make_thumbnails(wanted, options, schemes)
        pictures = number_pictures(pairs, output, made)
        data = {
            **describe(output, title, job, summary, facts),
            "curve": aggregate(pairs.curves, pairs.points),
            "grid": grid and grid.for_page(),
            "pairs": {**pairs.columns(), **pictures},
            "unreadable": dict(made.failed.most_common()),
        }
        text = render(data, list(made.pictures.values()))
        uri = uris.join(output, records.REPORT)
        files.write_bytes(uri, text.encode(), options)
    except (RowError, OSError, pa.ArrowException) as error:
        reason = str(error) if isinstance(error, RowError) else failures.reason(error)
        raise ReportError(f"report of {uris.redact(output)}: {reason}") from error
    pictured = sum(number >= 0 for number in pictures["resultPictures"])
    return Made(uri, len(text), facts.pairs, len(pairs.rows), pictured)


def _read_json(uri: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """Read a JSON object; return None if there is no such file.

    Raises:
        RowError: The file cannot be read.
        ReportError: The file holds something else.
    """
    try:
        value = json.loads(files.read_bytes(uri, options))
    except RowError as error:
        if error.error_class == "not_found":
            return None
        raise
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ReportError(f"output: {uris.redact(uri)} was not written by this program")
    return value
