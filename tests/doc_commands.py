"""The blocks of code in README and docs, their shell commands as a reader copies them, and names.

    python tests/doc_commands.py README.md

prints the commands, one a line. This module needs only the standard library.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)

LANGUAGES = ("sh", "python", "yaml", "json", "dockerfile", "text")
"""What a block may say that it is. ``sh`` is for commands, ``text`` for what nobody runs."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block."""
    return [(found[1], found[2]) for found in FENCE.finditer(page.read_text())]


def named(page: str, heading: str) -> set[str]:
    """Each word in backticks below a heading of the second level; the page is relative to ROOT."""
    _, _, rest = (ROOT / page).read_text().partition(f"\n## {heading}\n")
    return set(re.findall(r"`(\w+)`", rest.partition("\n## ")[0]))


def commands(block: str) -> list[str]:
    """Each command on one line, without its comment."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line for line in (re.sub(r"(^|\s)#\s.*", "", line).strip() for line in lines) if line]


if __name__ == "__main__":
    for language, block in blocks(Path(sys.argv[1])):
        if language == "sh":
            print("\n".join(commands(block)))
