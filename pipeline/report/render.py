"""Data and pictures put into the page's template: one HTML file that makes no request.

What comes from records is untrusted. It enters as JSON in a data block, and the page's script
writes it as text. The page's Content-Security-Policy (W3C CSP Level 3) allows its own style and
script by their hashes, pictures from ``data:``, and no request.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

SCRIPTS = (
    *("basics.js", "model.js", "charts.js", "gallery.js", "detail.js"),
    *("intro.js", "grid.js", "figures.js", "notes.js", "start.js"),
)
"""The page's scripts, in the order in which they run."""

POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; script-src '{script}'; "
    "base-uri 'none'; form-action 'none'"
)


def render(data: Mapping[str, Any], pictures: list[str]) -> str:
    """Return the page as HTML.

    Args:
        data: What the page's script reads, as ``make_report`` collects it.
        pictures: Base64 of WebP files. ``data`` refers to them by their place, from 0.
    """
    folder = resources.files("pipeline.report")
    style = (folder / "page.css").read_text("utf-8")
    scripts = [(folder / name).read_text("utf-8") for name in SCRIPTS]
    script = "\n".join(["(() => {", *scripts, "})();"])  # keeps their names out of the global scope
    parts = {
        "policy": POLICY.format(style=_hash(style), script=_hash(script)),
        "title": html.escape(data["title"] or f"{data['output']['name']}: style transfer"),
        "style": style,
        "script": script,
        "data": to_json(data),
        "pictures": to_json(pictures),
    }
    template = (folder / "page.html").read_text("utf-8")
    # One pass: what is put in is not searched for placeholders again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def to_json(value: Any) -> str:
    """Return JSON that is safe in a script element: ASCII, without the characters that end one."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
