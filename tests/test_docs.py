"""What README.md and docs/ say is so: links, commands, options, settings, messages, examples."""

import ast
import contextlib
import functools
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

from jobs import _settings_page
from jobs.main import ABOUT
from pipeline.data.errors import ErrorClass
from pipeline.data.manifest import manifest, planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.schemas import OWN_COLUMNS, RECORD_SCHEMA
from pipeline.engine.audit import verdict
from pipeline.style.network.weight_files import parse_weights, weights_digest
from tests.doc_commands import named

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples/README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "pipeline/style/network/compact.md",
]
JOBS = (
    "stylize",
    "make_manifest",
    "verify",
    "report",
    "demo",
    "benchmark",
    "quality",
    "pictures",
    "train_compact.distil",
)
TROUBLE = (ROOT / "docs/troubleshooting.md").read_text()


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Each command in code, in both forms, as the job's name and the options after it."""
    text = page.read_text().replace("\\\n", " ")
    found = []
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)|```\w*\n(.*?)```", text, re.DOTALL):
        code = span[1] or " ".join(span[0].split())
        for line in code.splitlines():
            called = re.search(r"python -m jobs\.|\bneural-style (?=[a-z])", line)
            if called:
                name, *rest = shlex.split(line[called.end() :], comments=True)
                name = ABOUT[name][0] if called[0].startswith("neural") else name
                found.append((name, [word for word in rest if word.startswith("--")]))
    return found


def help_of(job: str) -> str:
    """The option that shows all others."""
    return "--help-all" if job in ("stylize", "make_manifest", "verify", "report") else "--help"


@functools.cache
def options_of(job: str) -> set[str]:
    """What the job's own help names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(f"jobs.{job}").main([help_of(job)])
    own = set(re.findall(r"--[a-z][a-z-]*", said.getvalue()))
    return own | options_of("stylize") if job == "demo" else own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for job, options in commands(page):
        assert (ROOT / "jobs" / f"{job.replace('.', '/')}.py").exists(), job
        assert job.startswith("_") or set(options) <= options_of(job), (job, options)
    known = set().union(*map(options_of, JOBS), {"--working-dir"})  # the last is Ray's
    named = set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text()))
    assert named <= known, named - known
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)", page.read_text()):
        assert f"\n{target}:" in makefile, target


def test_the_page_of_settings_is_the_settings():
    assert (ROOT / "docs/settings.md").read_text() == _settings_page.page()


def rows(header: str) -> list[str]:
    """The first cells of the tables in the page on trouble whose first column is called so."""
    tables = re.findall(rf"^\| {header} \|.*\n\|.*\n((?:\|.*\n)+)", TROUBLE, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [line.split(" | ")[0].removeprefix("| ") for line in lines]


def test_every_class_of_error_has_an_entry_and_no_other_has():
    assert [f"`{name}`" for name in typing.get_args(ErrorClass)] == rows("error_class")


def test_every_fault_that_verify_finds_has_an_entry_and_no_other_has():
    named = re.findall(r"`(\w+)`", " ".join(rows("fault")))
    assert sorted(named) == sorted(re.findall(r"``(\w+)``", verdict.__doc__))


@functools.cache
def texts() -> str:
    """Every text in the source, a line each; zeros for what is filled in at run time."""
    found = []
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            if any(map(is_text, parts)):
                filled = [part.value if is_text(part) else "\0" for part in parts]
                found.append("".join(filled).replace("\n", " "))
    return "\n".join(found)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@pytest.mark.parametrize("message", rows("message"))
def test_a_quoted_message_is_one_of_the_source(message):
    fixed = map(re.escape, message.strip("`").split("..."))
    assert re.search(".*".join(fixed), texts())


def test_the_conversion_of_weights_keeps_their_digest(tmp_path, monkeypatch, narrow_state):
    page = (ROOT / "docs/weights.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    torch.save({**narrow_state, "classifier.0.bias": torch.zeros(1)}, "vgg19-dcbb9e9d.pth")
    exec(code)
    made = parse_weights(Path("vgg19-features.safetensors").read_bytes(), "x.safetensors")
    assert weights_digest(made) == weights_digest(narrow_state)


def test_the_manifest_made_by_hand_is_one(tmp_path, monkeypatch):
    page = (ROOT / "docs/manifests.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code)
    opened = manifest.open_manifest("pairs.parquet", {})
    checker = RowChecker(str(tmp_path), "fingerprint", frozenset({"file"}))
    ((row,),) = planning.planned_slices(opened, checker, None)
    assert row["fault_class"] is None
    assert row["content_uri"] == str(tmp_path / "photos/cat.jpg")


def test_the_page_on_formats_names_every_column_of_the_records():
    assert set(RECORD_SCHEMA.names) <= named("docs/formats.md", "Records")


def test_the_page_on_manifests_names_every_column_that_a_job_reads():
    named = set(re.findall(r"`(\w+)`", (ROOT / "docs/manifests.md").read_text()))
    assert set(OWN_COLUMNS) <= named


def test_the_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert all(f"](docs/{page.name})" in readme for page in ROOT.glob("docs/*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    known = "pipeline|jobs|tests|docs|deploy|examples"
    for path in re.findall(rf"`((?:{known})/[\w/.-]+)(?:: \w+)?`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_the_walk_of_a_pair_names_what_there_is():
    page = (ROOT / "docs/architecture.md").read_text()
    stations = re.findall(r"`([\w/]+\.py): (\w+)`", page)
    assert len(stations) >= 20
    for path, name in stations:
        file = ROOT / path if path.startswith("jobs/") else ROOT / "pipeline" / path
        assert re.search(rf"^(?:def|class) {name}\b", file.read_text(), re.MULTILINE), (path, name)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra `docs`")
    pytest.importorskip("material", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", folder]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_has_every_page_in_its_menu(site):
    menu = (site / "index.html").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")]
    for page in [*pages, Path("compact.md"), Path("changelog.md")]:
        assert f'href="{page.with_suffix(".html").as_posix()}"' in menu, page


def test_the_site_loads_nothing_from_a_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text()
        )
        assert not [address for address in loaded if "//" in address], page


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("python", "pipeline.stylize"),
        ("jobs", "pipeline.run_job"),
        ("method", "pipeline.style.method.losses.gram_matrix"),
        ("data", "pipeline.data.schemas.RECORD_SCHEMA"),
    ],
)
def test_the_reference_is_made_from_the_docstrings(site, page, words):
    assert f'id="{words}"' in (site / f"reference/{page}.html").read_text()
