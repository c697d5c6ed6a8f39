"""Records, settings and pictures of an output -> ``report.html``, one file that asks for nothing.

What comes from records is untrusted: it enters as JSON in a data block, and the page's script
writes it as text. The page's policy allows its own style and script by their hashes, pictures from
``data:``, and no request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pyarrow as pa

from pipeline.data.errors import RowError
from pipeline.data.output import records
from pipeline.data.storage import failures, files, uris
from pipeline.report.describe import describe
from pipeline.report.facts import Facts, choose_pairs, extreme_keys, gather
from pipeline.report.pairs import Pairs, aggregate, read_pairs
from pipeline.report.thumbnails import Thumbnails, Wanted, make_thumbnails

SCRIPTS = ("page.js", "model.js", "charts.js", "gallery.js", "detail.js", "sections.js")

POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; "
    "base-uri 'none'; form-action 'none'"
)


class ReportError(ValueError):
    """There is nothing to report on, or it cannot be read or written. The message says which."""


@dataclass(frozen=True)
class Made:
    """A report that was written: where, its length, and pairs recorded, listed and pictured."""

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
    allowed: frozenset[str] = frozenset(),
) -> Made:
    """Write ``report.html`` into an output, of a finished job or of one under way.

    Memory: some 30 bytes for each record, and about 100 MB for what the page shows.

    Args:
        thumbnails: pairs whose pictures are embedded, at most.
        allowed: URI schemes of inputs that are read for them, beside the output's own and the
            object stores'.

    Raises:
        ReportError: it is no job's output, or storage refused or failed.
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
        schemes = frozenset({uris.scheme_of(output), *uris.OBJECT_STORES, *allowed})
        wanted = _in_order(pairs, facts, output)[:thumbnails]
        made = make_thumbnails(list(wanted), options, schemes)
        pictures = _numbered(pairs, output, made)
        data = {
            **describe(output, job, summary, facts),
            "curve": aggregate(pairs),
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


def render(data: Mapping[str, Any], pictures: list[str]) -> str:
    """The page.

    Args:
        data: what the page's script reads; see ``make_report``.
        pictures: base64 of WebP files, which ``data`` counts from 0.
    """
    folder = resources.files("pipeline.report")
    style = (folder / "page.css").read_text("utf-8")
    scripts = [(folder / name).read_text("utf-8") for name in SCRIPTS]
    script = "\n".join(["(() => {", *scripts, "})();"])  # their names stay among themselves
    parts = {
        "policy": POLICY.format(style=_hash(style), script=_hash(script)),
        "title": html.escape(f"{data['output']['name']}: style transfer"),
        "style": style,
        "script": script,
        "data": to_json(data),
        "pictures": to_json(pictures),
    }
    template = (folder / "page.html").read_text("utf-8")
    # In one pass: what is put in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def to_json(value: Any) -> str:
    """JSON that may stand in a script element: ASCII, without the letters that end one."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _read_json(uri: str, options: files.StorageOptions) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file.

    Raises:
        RowError: it cannot be read.
        ReportError: it is something else.
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


def _in_order(pairs: Pairs, facts: Facts, output: str) -> list[Wanted]:
    """The ok pairs in the order in which they get pictures: extremes of the loss, then by lot."""
    first = {key: place for place, key in enumerate(extreme_keys(facts))}
    places = [place for place, row in enumerate(pairs.rows) if row["ok"] and _is_image(row["file"])]
    places.sort(key=lambda place: (first.get(pairs.keys[place], len(first)), pairs.keys[place]))
    contents, styles = pairs.contents.listed(), pairs.styles.listed()
    return [
        Wanted(
            uris.join(output, row["file"]),
            tuple(
                [contents[row["content"]]] * (row["content"] >= 0)
                + [styles[number] for number in row["styles"]]
            ),
        )
        for row in (pairs.rows[place] for place in places)
    ]


def _is_image(name: str | None) -> bool:
    """Whether a record's file name is one that a job gives."""
    return (
        name is not None and name.startswith(f"{records.IMAGES}/") and ".." not in name.split("/")
    )


def _numbered(pairs: Pairs, output: str, made: Thumbnails) -> dict[str, list[int]]:
    """Which picture each pair's result is, and each content and style; -1: none."""
    numbers = {uri: number for number, uri in enumerate(made.pictures)}
    results = [
        numbers.get(uris.join(output, row["file"]), -1) if row["file"] else -1 for row in pairs.rows
    ]
    return {
        "resultPictures": results,
        "contentPictures": [numbers.get(uri, -1) for uri in pairs.contents.listed()],
        "stylePictures": [numbers.get(uri, -1) for uri in pairs.styles.listed()],
    }
