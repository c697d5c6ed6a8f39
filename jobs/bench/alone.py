"""Measure in a process of its own, so that the peak memory is the measurement's alone."""

import importlib
import inspect
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]
"""Figures of one measurement, by name."""

STATUS = Path("/proc/self/status")
"""Linux tells here what a process holds."""

PEAK_RESET = Path("/proc/self/clear_refs")
"""Linux forgets a process's peak memory when 5 is written here; see proc(5)."""


def alone(function: Callable[..., Numbers], *values: Any, **named: Any) -> Numbers:
    """Call a function of a module in a fresh process.

    Args:
        function: returns only what JSON can hold.
        values: its arguments by position, of JSON's types.
        named: its other arguments, of JSON's types.

    Returns:
        All arguments with the defaults, what the function returns, and ``peak_mib``: the most
        memory that the process held.

    Raises:
        subprocess.CalledProcessError: the function raised an error, which is on standard error, or
            the process was killed.
    """
    bound = inspect.signature(function).bind(*values, **named)
    bound.apply_defaults()
    call = [function.__module__, function.__name__, json.dumps(bound.arguments)]
    command = [sys.executable, "-m", __name__, *call]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603
    numbers: Numbers = json.loads(done.stdout)
    return bound.arguments | numbers


def peak_bytes() -> int:
    """Return the most memory that this process has held."""
    if STATUS.exists():  # getrusage's peak may be the parent's, and is never reset
        lines = STATUS.read_text().splitlines()
        (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return peak * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Let ``peak_bytes`` begin again with what this process holds now, where the system can."""
    if PEAK_RESET.exists():
        PEAK_RESET.write_text("5")


def main() -> None:
    """Call the function that the command line names, and print what it returns as JSON."""
    module, name, arguments = sys.argv[1:]
    numbers = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    json.dump(numbers | {"peak_mib": peak_bytes() / 2**20}, sys.stdout)


if __name__ == "__main__":
    main()
