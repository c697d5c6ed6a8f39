"""Imports run one way, room by room.

jobs -> engine, report, notebook, training -> style, data -> settings -> redaction.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STOREYS = (
    ("pipeline.redaction",),
    ("pipeline.settings",),
    ("pipeline.style", "pipeline.data"),
    ("pipeline.engine", "pipeline.report", "pipeline.notebook", "pipeline.training"),
    ("jobs",),
)
"""Each may import what stands above it here, and itself. The package's face, ``pipeline``, is
imported by the commands alone."""

ROOMS = {
    "pipeline.settings": ("fields", "validation", "style", "job", "manifest"),
    "pipeline.style": (
        "network",
        "hardware",
        "optimizer",
        "method",
        "recipe",
        "serving",
        "optimize",
    ),
    "pipeline.data": (
        "errors",
        "words",
        "names",
        "ids",
        "schemas",
        "storage",
        "images",
        "manifest",
        "output",
        "make_manifest",
    ),
    "pipeline.engine": (
        "resources",
        "runtime",
        "board_actor",
        "board",
        "metrics",
        "stages",
        "announcing",
        "actor",
        "starting",
        "flow",
        "progress",
        "forecast",
        "following",
        "ray_tasks",
        "packing",
        "job_file",
        "checking",
        "prepare",
        "job",
        "audit",
        "dry_run",
    ),
}
"""The rooms and single modules of each: one may import those before it, and itself."""

NOT_INSTALLED = {
    "pipeline.settings": {"ray", "torch", "torchvision", "PIL", "pyarrow", "fsspec"},
    "pipeline.style": {"ray", "PIL", "pyarrow", "fsspec", "s3fs"},
    "pipeline.data": {"ray", "torch", "torchvision"},
    "pipeline.engine": {"PIL"},
    "pipeline.report": {"ray", "torch", "torchvision", "PIL", "fsspec"},
    "pipeline.notebook": {"ray", "torchvision", "pyarrow", "fsspec"},
    "pipeline.training": {"ray", "pyarrow", "fsspec"},
}
"""Packages that each part of the house does without."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")]
}


def part_of(module: str) -> str:
    return "jobs" if module.startswith("jobs") else ".".join(module.split(".")[:2])


def room_of(module: str) -> str:
    return (module.split(".") + [""] * 3)[2]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in full}
    return names


@pytest.mark.parametrize("module", sorted({*MODULES} - {"pipeline"}))
def test_modules_import_downwards_only(module):
    part, room = part_of(module), room_of(module)
    storey = next(level for level, parts in enumerate(STOREYS) if part in parts)
    for name in imports(MODULES[module]):
        assert name.split(".")[0] not in NOT_INSTALLED.get(part, ()), f"{module} imports {name}"
        if name not in MODULES:
            continue
        other = part_of(name)
        if other == part:
            rooms = ROOMS.get(part, ())
            if room and room_of(name) and rooms:
                assert rooms.index(room_of(name)) <= rooms.index(room), f"{module} imports {name}"
        else:
            below = {below for parts in STOREYS[:storey] for below in parts}
            assert other in below or part == "jobs", f"{module} imports {name}"


def test_the_rooms_are_those_of_the_house():
    for part, rooms in ROOMS.items():
        found = {room_of(module) for module in MODULES if module.startswith(f"{part}.")}
        assert found == {*rooms}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(
            "pipeline.style.optimize, pipeline.style.network.weights",
            {"ray", "PIL", "pyarrow", "fsspec", "torchvision"},
            id="the method needs neither Ray nor storage",
        ),
        pytest.param(
            "pipeline.settings",
            {"ray", "torch", "PIL", "matplotlib"},
            id="the package itself loads nothing",
        ),
        pytest.param(
            "pipeline.engine.stages.loading, pipeline.engine.stages.storing",
            {"torch"},
            id="load and store tasks do without torch",
        ),
    ],
)
def test_what_a_module_does_not_load(modules, absent):
    code = f"import sys; import {modules}; sys.exit(', '.join({absent} & {{*sys.modules}}) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_commands_print():
    """A library logs, and whoever uses it decides what is shown; a watcher is its own program."""
    for path in sorted(ROOT.glob("pipeline/**/*.py")):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        printing = any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)
        assert not printing or path.name == "watcher.py", path
