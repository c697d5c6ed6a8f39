"""Hooks of mkdocs.yml: pages that are kept outside docs/, and links that leave it.

The README is the site's first page. It, the changelog and the model card keep their places in the
repository, where GitHub and the package want them. Their links and those to them are rewritten as
the site is built. A link to a source file becomes plain text: the site holds no sources.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "pipeline/style/network/compact.md": "compact.md",
}
"""Pages outside docs/, by their path in the repository, and their names on the site."""

SOURCES = {page: source for source, page in OUTSIDE.items()}

LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
"""A link or an image: its text, its target, and an anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links. One that leads nowhere stays, and fails the build."""
    here = page.file.src_uri
    source = SOURCES.get(here, f"docs/{here}")

    def rewritten(found: re.Match[str]) -> str:
        text, target, anchor = found.groups(default="")
        if "://" in target:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = OUTSIDE.get(path) or path.removeprefix("docs/")
        if there == path:  # neither a page of the site nor a picture
            return text if (ROOT / path).exists() else found[0]
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(rewritten, markdown)
