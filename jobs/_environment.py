"""One line in place of a traceback where this Python lacks a package that is needed."""

import os
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent

PACKAGES = {
    **{name: name for name in ("ray", "torch", "torchvision", "numpy", "pyarrow", "fsspec")},
    **{name: name for name in ("s3fs", "aiohttp", "safetensors", "tqdm", "tomli", "argcomplete")},
    "PIL": "pillow",
    "yaml": "pyyaml",
    "pynvml": "nvidia-ml-py",
}
"""What this program needs: the packages' names by those of their modules."""

OF_THE_DEMO = {"skimage": "scikit-image", "matplotlib": "matplotlib"}


def missing_package(error: BaseException) -> str | None:
    """Return what to do about a missing package, in one line; None if the error is another one."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    package = {**PACKAGES, **OF_THE_DEMO}.get(name)
    return package and f"{sys.executable} has no package {package!r}; {_remedy(name)}"


def _remedy(name: str) -> str:
    environment = ROOT / ".venv" / "bin" / "python"
    source = str(ROOT) if (ROOT / "pyproject.toml").exists() else "neural-style-pipeline"
    if name in OF_THE_DEMO:
        return f"install it: {sys.executable} -m pip install '{source}[demo]'"
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return (
            "Ray's jobs use the first python in the PATH of ray start: start the head with the "
            "environment's bin folder first in PATH, or give the whole path of its python after --"
        )
    if environment.exists() and Path(sys.prefix) != ROOT / ".venv":
        called = sys.orig_argv
        as_module = called[called.index("-m") :][:2] if "-m" in called else ["-m", "jobs.main"]
        return f"use the environment's: {' '.join([str(environment), *as_module])}"
    return f"activate its environment, or install it: {sys.executable} -m pip install '{source}'"


def say_what_is_missing() -> None:
    """Have an uncaught error that ``missing_package`` knows end this process with 2 and its line.

    Entry points import packages before their ``main`` is called, so no ``except`` there sees it.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        line = missing_package(error)
        if line is None:
            before(kind, error, trace)
            return
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(2)  # an excepthook cannot choose the code otherwise

    sys.excepthook = hook
