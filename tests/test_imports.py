"""Imports run one way: jobs -> engine -> (style, data) -> settings; jobs -> report -> data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "pipeline.settings": set(),
    "pipeline.style": {"pipeline.settings", "pipeline.style"},
    "pipeline.data": {"pipeline.settings", "pipeline.data"},
    "pipeline.engine": {"pipeline.settings", "pipeline.style", "pipeline.data", "pipeline.engine"},
    "pipeline.report": {"pipeline.settings", "pipeline.data", "pipeline.report"},
    "pipeline.notebook": {
        "pipeline.settings",
        "pipeline.style",
        "pipeline.data",
        "pipeline.notebook",
    },
}
FORBIDDEN = {
    "pipeline.settings": {"ray", "torch", "torchvision", "PIL", "pyarrow", "fsspec"},
    "pipeline.style": {"ray", "PIL", "pyarrow", "fsspec", "s3fs"},
    "pipeline.data": {"ray", "torch", "torchvision"},
    "pipeline.engine": {"PIL"},
    "pipeline.report": {"ray", "torch", "torchvision", "PIL", "fsspec"},
    "pipeline.notebook": {"ray", "torchvision", "pyarrow", "fsspec"},
}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names.add(node.module)
            if node.module == "pipeline":
                names |= {f"pipeline.{alias.name}" for alias in node.names}
    return names - {"pipeline"}


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("pipeline/*/*.py")), ROOT / "pipeline/settings.py"]
)
def test_modules_import_downwards_only(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room = room_of(module)
    for name in imports(path):
        assert not name.startswith("jobs"), f"{module} imports {name}"
        if name.startswith("pipeline."):
            assert room_of(name) in MAY_IMPORT[room], f"{module} imports {name}"
        assert name.split(".")[0] not in FORBIDDEN[room], f"{module} imports {name}"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        pytest.param(
            "pipeline.style.optimize, pipeline.style.weights",
            {"ray", "PIL", "pyarrow", "fsspec", "torchvision"},
            id="the method needs neither Ray nor storage",
        ),
        pytest.param(
            "pipeline.settings",
            {"ray", "torch", "PIL", "matplotlib"},
            id="the package itself loads nothing",
        ),
        pytest.param(
            "pipeline.engine.stages", {"torch"}, id="load and store tasks do without torch"
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
