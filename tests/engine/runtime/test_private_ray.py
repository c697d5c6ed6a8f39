"""The installed Ray has all undocumented parts that are used."""

import ast
import importlib
import os
import sys
import time
from pathlib import Path

import pytest
import ray

from jobs import stylize
from pipeline.engine.runtime import private_ray
from pipeline.settings import JobSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
FULL = [f"{module}.{name}" for module, name in private_ray.NAMES]


def test_the_installed_ray_has_it_all_and_is_one_that_is_tested():
    assert private_ray.missing() == []
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"ray[data,default]{private_ray.TESTED}" in needed
    assert set(private_ray.VALUES) <= set(FULL)


def test_each_name_that_is_looked_up_is_among_those_that_are_checked():
    calls = [
        node.args
        for node in ast.walk(ast.parse(Path(private_ray.__file__).read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "_get"
    ]
    used = {
        (getattr(private_ray, ast.unparse(module)), name.value)
        for module, name in calls
        if isinstance(name, ast.Constant)
    }
    assert len(used) >= 5
    assert used <= set(private_ray.NAMES)


@pytest.mark.parametrize(("module", "name"), private_ray.NAMES, ids=FULL)
def test_a_name_that_is_gone_ends_a_job_with_2_and_one_line(
    module, name, monkeypatch, tmp_path, quick, capsys
):
    *parents, last = name.split(".")
    holder = importlib.import_module(module)
    for parent in parents:
        holder = getattr(holder, parent)
    monkeypatch.delattr(holder, last)
    job = JobSettings(manifest=str(tmp_path / "m.parquet"), output=str(tmp_path / "out"))
    assert stylize.run(quick, job, stylize.Messages()) == 2
    *activity, line = capsys.readouterr().err.splitlines()
    assert not any("rror" in each for each in activity)
    start = f"error: Ray {ray.__version__} has no {module}.{name} as this program uses it; "
    assert line.startswith(start)
    assert line.endswith("pip install 'ray[data,default]>=2.60,<2.61'")


@pytest.mark.parametrize("full", private_ray.VALUES)
def test_a_name_with_another_meaning_is_as_good_as_gone(full, monkeypatch):
    monkeypatch.setattr(full, "another")
    assert private_ray.missing() == [full]


def is_private(name: str) -> bool:
    parts = name.split(".")
    hidden = any(part.startswith("_") and part != "__version__" for part in parts)
    return parts[0] == "ray" and (hidden or parts[1:2] in (["autoscaler"], ["experimental"]))


def test_no_other_module_uses_what_ray_does_not_document():
    for path in (*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/*.py")):
        if path.name == "private_ray.py":
            continue
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute):
                names.add(ast.unparse(node))
        assert [name for name in names if is_private(name)] == [], path


@pytest.mark.usefixtures("local_ray")
def test_workers_that_idle_are_kept_though_they_are_more_than_the_cpus():
    """The tests' Ray has two CPUs and is started as a job starts one."""

    @ray.remote(num_cpus=0.1)
    def process():
        time.sleep(0.5)
        return os.getpid()

    found = set(ray.get([process.remote() for _ in range(4)]))
    assert len(found) > 2
    time.sleep(3)  # Ray ends those too many once they have idled for a second
    again = set(ray.get([process.remote() for _ in found]))
    assert len(again & found) > 2
