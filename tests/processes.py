"""Processes of this machine, as /proc shows them, and a command that a signal stops."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

STOPPED = """
import os, pkgutil, signal, sys
from pathlib import Path
from jobs import stylize

moment, plans, *arguments = sys.argv[1:]
place, _, name = moment.rpartition(".")
module, work = pkgutil.resolve_name(place), pkgutil.resolve_name(moment)
signals = [signal.SIGTERM, signal.SIGHUP]
left = list(signals)

def stopped(*given, **named):
    found = work(*given, **named)
    assert list(Path(plans).rglob("*.parquet")), "there is no plan that could stay behind"
    os.kill(os.getpid(), left.pop())
    return found

setattr(module, name, stopped)
for number in signals:
    signal.signal(number, signal.SIG_DFL)
assert [stylize.main(arguments) for _ in signals] == [130, 130]
assert [signal.getsignal(number) for number in signals] == [signal.SIG_DFL] * 2, "put back"
"""


def stop_at(moment: str, plans: Path, arguments: list[str], **environment: str) -> None:
    """Check that ``jobs.stylize`` ends with 130 where it gets a signal, also if it is run again.

    It is a process of its own: what no handler takes would end pytest.

    Args:
        moment: full name of the function after which the signal comes, first SIGHUP, then SIGTERM.
        plans: folder below which the plan lies by then.
        arguments: of the command.
        environment: variables in addition.
    """
    run = subprocess.run(
        [sys.executable, "-c", STOPPED, moment, str(plans), *arguments], cwd=ROOT,
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, f"{run.returncode}: {run.stderr}"


def processes_naming(text: str) -> list[int]:
    """The ids of all others whose command line holds ``text``."""
    return [pid for pid in _all() if pid != os.getpid() and text in _command_line(pid)]


def descendants(parent: int) -> list[int]:
    """The ids of a process, of those that it started, of those that these started, and so on."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
    found = [parent]
    for pid in found:
        found += children.get(pid, [])
    return found


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""
