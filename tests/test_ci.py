"""What continuous integration runs."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / ".ci" / "run"
TOOLS = ("bash", "dirname", "env", "id", "sh", "timeout", "cat", "chmod")


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A folder for PATH: a root's machine without browser and tmux; make and apt-get log."""
    for name in TOOLS:
        (tmp_path / name).symlink_to(shutil.which(name))
    (tmp_path / "id").unlink()
    tool(tmp_path, "id", "echo 0")
    tool(tmp_path, "make", f'echo "make $*${{CI:+ with CI}}" >> {tmp_path}/log')
    return tmp_path


def run(machine: Path) -> tuple[list[str], str]:
    """The commands that were called, and what was said."""
    made = subprocess.run(
        [RUN],
        env={"PATH": str(machine), "CI": "true"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert made.stdout == ""
    return (machine / "log").read_text().splitlines(), made.stderr


def test_a_missing_browser_is_installed(machine):
    tools = " ".join(f"{machine}/{name}" for name in ("chromium", "chromedriver", "tmux"))
    (machine / "touch").symlink_to(shutil.which("touch"))
    tool(machine, "apt-get", f'echo "apt-get $*" >> {machine}/log; touch {tools}; chmod +x {tools}')
    called, said = run(machine)
    assert called == [
        "apt-get install -y --no-install-recommends chromium chromium-driver tmux",
        "make test with CI",
    ]
    assert said == ""
    assert run(machine)[0][2:] == ["make test with CI"], "nothing is installed twice"


def test_an_installation_that_fails_ends_nothing(machine):
    tool(machine, "apt-get", f'echo "apt-get $1" >> {machine}/log; echo no network; exit 100')
    called, said = run(machine)
    assert called == ["apt-get install", "apt-get update", "make test"]
    assert "chromium" in said


def test_without_root_nothing_is_installed(machine):
    tool(machine, "apt-get", f"echo apt-get >> {machine}/log")
    tool(machine, "id", "echo 1000")
    assert run(machine)[0] == ["make test"]
