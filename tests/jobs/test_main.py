"""The command ``neural-style``: its words, its help, completion, and what it is called from."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import jobs._environment as environment
from jobs import _parser, main
from pipeline.data.output import records
from tests.conftest import image_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path):
    """The script that pip writes for the entry point."""
    path = tmp_path / "bin" / "neural-style"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom jobs.main import main\nsys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


def run(*command, folder, **more):
    outside = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env={**outside, "PYTHONPATH": str(ROOT), **more},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip


def test_two_folders_to_pictures_in_a_folder_with_a_pipeline_of_its_own(program, tmp_path):
    """Neither the command nor Ray's workers take modules from there, and the home stays empty."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here / "photos" / "cat", here / "art", here / "pipeline", here / "jobs"):
        folder.mkdir(parents=True)
    for name in ("pipeline", "jobs"):
        (here / name / "__init__.py").write_text("raise ImportError('the one of this folder')\n")
    (here / "torch.py").write_text("raise ImportError('the one of this folder')\n")
    for index in range(2):
        (here / "photos" / "cat" / f"tabby {index}.png").write_bytes(image_bytes(index, 64, 64))
    (here / "art" / "night.png").write_bytes(image_bytes(5, 64, 64))
    done = run(
        *(program, "stylize", "--content", "./photos", "--style", "./art", "--output", "./out"),
        *("--weights", "compact", "--image-size", "64", "--iterations", "2", "--scales", "1"),
        *("--label-from", "parent"),
        folder=here, HOME=str(home),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 pairs of 2 content images and 1 style: " in done.stderr
    names = sorted(path.name for path in (here / "out" / "images" / "cat").iterdir())
    assert [name[:21] for name in names] == [f"cat--tabby-{i}--night--" for i in range(2)]
    assert pq.read_table(here / "out" / "manifest").num_rows == 2
    assert (here / "out" / records.SUMMARY).exists()
    assert (here / "out" / "report.html").exists()
    assert list(home.rglob("*")) == []
    again = run(
        *(program, "stylize", "--content", "./photos", "--style", "./art", "--output", "./out"),
        *("--weights", "compact", "--image-size", "64", "--iterations", "2", "--scales", "1"),
        *("--label-from", "parent", "--no-report"),
        folder=here, HOME=str(home),
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "2 pairs in the manifest, 0 to do" in again.stderr


def test_words_that_are_no_command_are_named(capsys):
    for argv, message in (
        (["styilze"], "'styilze' is no command of neural-style; did you mean stylize?"),
        (["x"], "choose from stylize, manifest, verify, report, demo, bench"),
    ):
        assert main.main(argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert line.endswith(message)
    for argv in ([], ["help"], ["help", "verify"], ["--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main.main(argv)
        assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "neural-style stylize --content ./photos --style ./paintings --output ./out" in said
    assert said.splitlines()[-1].startswith("neural-style 0.")


def test_the_subcommands_are_the_modules_of_jobs():
    assert {module: word for word, (module, _) in main.ABOUT.items()} == _parser.SUBCOMMANDS
    for module in _parser.SUBCOMMANDS:
        assert (ROOT / "jobs" / f"{module}.py").exists()


@pytest.mark.parametrize("word", ["stylize", "manifest", "verify", "report"])
def test_the_short_help_fits_on_a_screen_and_names_the_long_one(word, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/x/bin/neural-style", word])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main.main([word, "--help"])
    short = capsys.readouterr().out
    assert short.startswith(f"usage: neural-style {word} ")
    assert len(short.splitlines()) <= 42
    assert max(map(len, short.splitlines())) <= 80
    assert f"\n    neural-style {word} " in short
    assert "--help-all" in short
    with pytest.raises(SystemExit):
        main.main([word, "--help-all"])
    assert set(short.split()) & {"--output", "OUTPUT"} <= set(capsys.readouterr().out.split())


def complete(program, line, target):
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    shell |= {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(target)}
    run(program, folder=target.parent, **shell)
    return target.read_text().split()


def test_a_shell_completes_commands_their_options_and_choices(program, tmp_path):
    assert complete(program, "neural-style st", tmp_path / "a") == ["stylize"]
    found = complete(program, "neural-style stylize --style", tmp_path / "b")
    assert {"--style", "--styles-per-content", "--style-layer-weights"} <= set(found)
    modes = complete(program, "neural-style manifest --mode ", tmp_path / "c")
    assert modes == ["cross", "sample"]


@pytest.mark.parametrize("missing", ["ray", "pyarrow", "torch", "yaml"])
@pytest.mark.parametrize("form", ["word", "module"])
def test_a_python_without_a_package_says_so_in_one_line(program, tmp_path, missing, form):
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nclass Gone:\n    def find_spec(name, *_):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        f"            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)\n"
        f"sys.meta_path.insert(0, Gone)\n"
    )
    command = [program, "stylize"] if form == "word" else [sys.executable, "-m", "jobs.stylize"]
    options = ("--manifest", "m.parquet", "--output", "out")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = run(*command, *options, folder=tmp_path, PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    *activity, line = done.stderr.splitlines()
    assert activity in ([], ["loading PyTorch and Ray"])
    package = environment.PACKAGES[missing]
    assert line.startswith(f"error: {sys.executable} has no package {package!r}; ")


def test_what_to_do_about_a_missing_package_depends_on_the_place(tmp_path, monkeypatch):
    gone = ModuleNotFoundError("No module named 'ray.data'", name="ray.data")
    called = ["python3", "-m", "jobs.verify", "--output", "out"]
    monkeypatch.setattr(sys, "orig_argv", called)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    said = environment.missing_package(gone)
    assert said.endswith(f"install it: {sys.executable} -m pip install 'neural-style-pipeline'")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert environment.missing_package(gone).endswith(f"'ray'; use the environment's: {python} "
                                                      "-m jobs.verify")  # fmt: skip
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "first in PATH" in environment.missing_package(gone)
    drawing = ModuleNotFoundError("No module named 'skimage'", name="skimage")
    assert "neural-style-pipeline[demo]" in environment.missing_package(drawing)
    assert environment.missing_package(ModuleNotFoundError("x", name="own_module")) is None
    assert environment.missing_package(ValueError("ray")) is None
