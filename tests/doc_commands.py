"""The blocks of code in README and docs, and their shell commands as a reader copies them.

    python tests/doc_commands.py README.md

prints the commands, one a line. This module needs only the standard library.
"""

import re
import sys
from pathlib import Path

FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)

LANGUAGES = ("sh", "python", "yaml", "json", "dockerfile", "text")
"""What a block may say that it is. ``sh`` is for commands, ``text`` for what nobody runs."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block."""
    return [(found[1], found[2]) for found in FENCE.finditer(page.read_text())]


def commands(block: str) -> list[str]:
    """Each command on one line, without its comment."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line for line in (re.sub(r"(^|\s)#\s.*", "", line).strip() for line in lines) if line]


if __name__ == "__main__":
    for language, block in blocks(Path(sys.argv[1])):
        if language == "sh":
            print("\n".join(commands(block)))
