"""The card of a folder of shards: ``README.md`` as the Hugging Face Hub shows it.

It says how many images there are, how they were made, and what the sources say of licences. Its
last line holds a digest of the others: a card that somebody has edited is told by it, and stays.
"""

import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pipeline.data.manifest.features import CARD
from pipeline.data.manifest.lineage import MOST_CARD, Lineage, from_json
from pipeline.data.output import dividing, records
from pipeline.data.storage import files, uris
from pipeline.data.words import counted

PROGRAM = "neural-style-pipeline"

NAMED = 20
"""Classes and licences that a card lists."""

_END = re.compile(rb"<!-- made by [\w-]+, sha256 of what is above: ([0-9a-f]{64}) -->\n\Z")


def write(division: dividing.Packing, output: str, options: files.StorageOptions) -> bool:
    """Write the card of a format's folder, unless somebody has edited it.

    Args:
        division: what is packed.
        output: URI of the output.
        options: storage options by scheme.

    Returns:
        Whether the card is this program's.

    Raises:
        RowError: the storage failed.
    """
    uri = uris.join(output, division.format, CARD)
    found = files.read_bytes(uri, options, MOST_CARD) if files.exists(uri, options) else None
    if found is not None and not is_own(found):
        return False
    data = card(division, records.job_of(output, options))
    if data != found:
        division.fence()
        files.write_bytes(uri, data, options)
    return True


def is_own(data: bytes) -> bool:
    """Return whether this program wrote a card, and nobody has changed it since."""
    end = _END.search(data)
    return end is not None and end[1].decode() == hashlib.sha256(data[: end.start()]).hexdigest()


def delete_own(output: str, form: str, options: files.StorageOptions) -> None:
    """Delete the card of a format's folder, unless somebody has edited it.

    Raises:
        RowError: the storage failed.
    """
    uri = uris.join(output, form, CARD)
    if files.exists(uri, options) and is_own(files.read_bytes(uri, options)):
        files.delete(uri, options)


def card(division: dividing.Packing, job: Mapping[str, Any]) -> bytes:
    """Return the card.

    Args:
        division: what is packed.
        job: content of ``job.json``.
    """
    lineage = from_json(job.get("data_set"))
    title = str(job.get("title") or "Stylised images")
    sections = [
        f"# {_plain(title)}",
        _counts(division, job),
        _table("split", division.facts.splits),
        *_classes(division, lineage),
        "## Licences",
        *_licences(division, lineage),
    ]
    head = yaml.safe_dump(_head(division, lineage, title), sort_keys=False, allow_unicode=True)
    text = f"---\n{head}---\n\n" + "\n\n".join(filter(None, sections)) + "\n\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    end = f"<!-- made by {PROGRAM}, sha256 of what is above: {digest} -->\n"
    return f"{text}{end}".encode()


def _head(division: dividing.Packing, lineage: Lineage, title: str) -> dict[str, Any]:
    found: dict[str, Any] = {"pretty_name": title}
    named: dict[str, None] = {}
    for fields in lineage.licences.values():
        told = fields.get("license", [])
        named |= dict.fromkeys([told] if isinstance(told, str) else told)
        for name, value in fields.items():
            found.setdefault(name, value)
    if named:  # of contents and of styles
        found["license"] = next(iter(named)) if len(named) == 1 else [*named]
    if division.columns.classes:
        found["task_categories"] = ["image-classification"]
    return found | {"tags": ["style-transfer", "data-augmentation"]}


def _counts(division: dividing.Packing, job: Mapping[str, Any]) -> str:
    originals = division.facts.originals
    more = f" and {counted(originals, 'original')}" if originals else ""
    settings, versions = job.get("settings") or {}, job.get("versions") or {}
    named = ", ".join(
        f"`{name}` {_plain(settings[name])}"
        for name in ("weights", "image_size", "iterations", "content_weight", "style_weight")
        if name in settings
    )
    how = " ".join(
        filter(None, [PROGRAM, _plain(versions.get(PROGRAM, "")), named and f"({named})"])
    )
    return (
        f"{counted(division.samples - originals, 'stylised image')}{more}, made with {how}. "
        "Each stylised image has the content of one picture "
        "(`content_uri`) in the style of others (`style_uri`)."
    )


def _classes(division: dividing.Packing, lineage: Lineage) -> list[str]:
    names = list(division.columns.names)
    if not names:
        return []
    own = lineage.ids and lineage.ids.items() <= division.columns.classes.items()
    how = "numbered as in the source" if own else "numbered in the order of their names"
    count = "1 class" if len(names) == 1 else f"{len(names)} classes"
    return [f"## Classes\n\n{count}, {how}: {_some(names)}."]


def _licences(division: dividing.Packing, lineage: Lineage) -> list[str]:
    lines = []
    for place, fields in lineage.licences.items():
        named = ", ".join(f"`{name}`: {_plain(value)}" for name, value in fields.items())
        lines.append(f"- The card of the {_plain(place)} images says: {named}.")
    for place in ("content", "style"):
        if place not in lineage.licences:
            lines.append(f"- No card of the {place} images names a licence.")
    credits = division.columns.credits
    if credits:
        named = ", ".join(f"`{name}`" for name in credits)
        lines.append(f"- For each content image the shards hold what its source says: {named}.")
    licences = {_plain(name or "none given"): n for name, n in division.facts.licences.items()}
    shown = dict(list(licences.items())[:NAMED])
    return [
        "A stylised image is made from a photograph and a painting: see that both may be used so.",
        "\n".join(lines),
        _table("license", shown) if "license" in credits else "",
    ]


def _table(title: str, counts: Mapping[str, int]) -> str:
    rows = [f"| {_plain(name) or '(none)'} | {count} |" for name, count in counts.items()]
    return "\n".join([f"| {title} | images |", "| --- | --- |", *rows])


def _some(names: list[str]) -> str:
    shown = ", ".join(map(_plain, names[:NAMED]))
    return f"{shown} and {len(names) - NAMED} more" if len(names) > NAMED else shown


def _plain(value: Any) -> str:
    """Return text that Markdown and HTML take for nothing else, on one line."""
    texts: Iterable[Any] = value if isinstance(value, list) else [value]
    text = " ".join(" ".join(map(str, texts)).split())[:300]
    return re.sub(r"[\\`*|\[\]]", " ", html.escape(text, quote=False)).strip()
