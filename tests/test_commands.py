"""Every shell command in README and docs runs, or is on the list of those that no test can run.

A page is a session: its commands run in order, in one folder with small pictures and a bucket on a
stand-in for S3. Jobs share a Ray. ``tests/front_door.sh`` runs the README's as a new user does.

To save time, jobs of some pages are dry runs here; ``make soak`` runs them all in earnest.
"""

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.scripts import scripts

from jobs import main
from pipeline.data.storage import filesystems
from pipeline.engine.dry_run import timing
from tests.conftest import image_bytes
from tests.doc_commands import LANGUAGES, blocks, commands
from tests.test_docs import PAGES, options_of

ROOT = Path(__file__).parent.parent

ELSEWHERE = {
    "python3 -m venv ": "takes minutes and GBs: tests/front_door.sh",
    "pip install .": "takes minutes and GBs: tests/front_door.sh",
    "export ": "sets variables for the commands after it",
    "ray start ": "has ports that another head may have: tests/front_door.sh",
    "ray get-auth-token ": "writes into the user's home",
    "ray up ": "needs AWS; tests/test_cluster.py has a stand-in",
    "ray down ": "needs AWS; tests/test_cluster.py has a stand-in",
    "ray dashboard ": "needs a cluster",
    "ray job logs ": "needs a cluster",
    "scp ": "needs a second machine",
    "docker ": "needs Docker",
    "kubectl ": "needs Kubernetes; tests/test_deploy.py checks the file",
    "prometheus ": "needs Prometheus and a cluster; tests/engine/test_metrics.py reads the metrics",
    "grafana-server ": "needs Grafana",
    "curl ": "needs the Internet",
    "sha256sum ": "needs the file that curl fetched",
    "git clone ": "needs the Internet",
    "pip install huggingface_hub": "needs the Internet",
    "hf auth login": "needs an account",
    "make test": "is this",
    "make quality ": "needs a trained VGG; tests/jobs/test_quality.py",
    "python -m jobs.train_compact.distil ": "needs a trained VGG; tests/test_distil.py",
    'python -c "import torch, ': "measures for minutes",
}
"""How commands begin that are not run here, and why. If their program is ours, Ray's or make, it
reads their options all the same."""

INSTEAD = {
    r"^(?:\w+=\S+ )*ray job submit .*? -- ": "",  # the job itself, on the test's Ray
    r"\{000\.\.099\}": "{000..001}",
    r"^python examples/": f"python {ROOT}/examples/",
    r" --push-to-hub \S+": "",  # tests/engine/packing/test_hub.py has a stand-in for the Hub
}
"""What is replaced in a command before it runs."""

LITTLE = {r'weights="compact"\)': 'weights="compact", image_size=48)'}
"""What is replaced in Python, for the same reason as the options of ``MORE``."""

MORE = {
    "stylize": "--weights compact --image-size 48 --iterations 2 --actors 1 --gpus-per-actor 0 "
    "--batch-size 1 --config job.yaml",
    "make_manifest": "--config job.yaml --overwrite",
    "verify": "--config job.yaml",
    "report": "--config job.yaml",
}
"""Options that a command gets: little work, and where the stand-in for S3 is. The last one wins."""

FOLDERS = "--content s3://bucket/photos/ --style s3://bucket/paintings/ --output s3://bucket"
FIRST = {
    "README.md": [f"neural-style manifest {FOLDERS}/pairs/"],
    "docs/clusters.md": [f"neural-style manifest {FOLDERS}/pairs/"],
    "docs/formats.md": ["neural-style manifest --content photos --style paintings --output pairs"],
    "docs/report.md": ["neural-style stylize --content photos --style paintings --output out"],
}
"""Commands that a reader of the page has run before. The bucket then holds what they made, too."""

DRY = ("docs/clusters.md", "docs/formats.md", "examples/README.md")
"""Pages whose jobs are dry runs but in ``make soak``."""

PYTHON_TOO = ("README.md", "examples/README.md")
"""Pages whose Python is run between the commands."""

OURS = [page for page in PAGES if any(language == "sh" for language, _ in blocks(page))]


def name_of(page):
    return str(page.relative_to(ROOT))


def is_elsewhere(command):
    return any(command.startswith(beginning) for beginning in ELSEWHERE)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page):
    for language, text in blocks(page):
        assert language in LANGUAGES, text
        if language == "text":
            assert not re.search(r"^(neural-style|python3?|pip|ray|make) ", text, re.MULTILINE), (
                text
            )


def test_the_list_of_what_is_not_run_is_no_longer_than_it_must_be():
    found = [
        line
        for page in OURS
        for language, text in blocks(page)
        if language == "sh"
        for line in commands(text)
    ]
    for beginning in ELSEWHERE:
        assert any(re.sub(r"^(\w+=\S+ )+", "", line).startswith(beginning) for line in found)


@pytest.fixture
def here(tmp_path, monkeypatch, s3, local_ray):
    """The current folder: pictures, data sets, settings; returns the name of the bucket."""
    options, bucket = s3
    contents, styles = ("cat/a.png", "dog/b.png"), ("night.png", "wave.png")
    for seed, name in enumerate((*(f"photos/{name}" for name in contents),
                                 *(f"imagenet/train/{name}" for name in contents),
                                 *(f"paintings/{name}" for name in styles))):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image_bytes(seed, 48, 64))
    for name in ("cat.jpg", "waves.jpg"):
        (tmp_path / name).write_bytes(image_bytes(9, 48, 64, "JPEG"))
    (tmp_path / "cifar10").mkdir()
    pictures = [image_bytes(index, 48, 48) for index in range(4)]
    pq.write_table(
        pa.table({"image": pictures, "label": [0, 1, 0, 1]}), tmp_path / "cifar10/train.parquet"
    )
    for index in range(2):
        with tarfile.open(tmp_path / f"train-{index:03}.tar", "w") as tar:
            for name, data in (("x.png", pictures[index]), ("x.cls", b"1")):
                member = tarfile.TarInfo(f"{index}{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    # The three lines that the README gives for an S3 of one's own, and the keys.
    (tmp_path / "job.yaml").write_text(f"storage_options: {options}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "TIMED", 1)
    upload(options, bucket)
    return options, bucket


def upload(options, bucket):
    """Put all files of the current folder into the bucket."""
    fs, _ = filesystems.filesystem("s3://x", options)
    for path in Path().rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{bucket}/{path}", path.read_bytes())


def replaced(text, patterns):
    for old, new in patterns.items():
        text = re.sub(old, new, text)
    return text


def run(command, bucket, dry=False):
    """Run one command and return its exit code."""
    words = shlex.split(replaced(command, INSTEAD).replace("s3://bucket/", f"s3://{bucket}/"))
    if words[0] == "python" and words[1] != "-m":
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *words[1:]], env=env, timeout=100).returncode
    module, *options = called(words)
    more = shlex.split(MORE.get(module, "") + " --dry-run" * (dry and module == "stylize"))
    return importlib.import_module(f"jobs.{module}").main([*options, *more])


def called(words):
    """The module of ``jobs`` and the options after it."""
    if words[0] == "neural-style":
        return [main.ABOUT[words[1]][0], *words[2:]]
    assert words[:2] == ["python", "-m"], f"{words}: add a rule that runs it, or say why none can"
    return [words[2].removeprefix("jobs."), *words[3:]]


def run_all(page, options, bucket, dry=False):
    for command in FIRST.get(name_of(page), []):
        assert run(command, bucket) == 0, command
        upload(options, bucket)
    for language, text in blocks(page):
        reads_pictures = "out/" in text
        if language == "python" and name_of(page) in PYTHON_TOO and not (dry and reads_pictures):
            exec(replaced(text, LITTLE), {})
        for command in commands(text) if language == "sh" else ():
            if not is_elsewhere(re.sub(r"^(\w+=\S+ )+", "", command)):
                assert run(command, bucket, dry) == 0, command


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_commands_run(page, here):
    run_all(page, *here, dry=name_of(page) in DRY)


@pytest.mark.soak
@pytest.mark.parametrize("page", DRY)
def test_commands_run_in_earnest(page, here):
    run_all(ROOT / page, *here)


@pytest.mark.parametrize("page", OURS, ids=name_of)
def test_what_is_not_run_has_options_that_its_program_knows(page):
    for language, text in blocks(page):
        for line in commands(text) if language == "sh" else ():
            for command in line.split(" && "):
                words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command))
                if words[0] == "ray":
                    read_as_ray(words)
                elif words[0] == "make":
                    made = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True)
                    assert made.returncode == 0, made.stderr
                elif words[:2] == ["python", "-m"] and words[2].startswith("jobs."):
                    module, *rest = called(words)
                    options = {word for word in rest if word.startswith("--")}
                    assert options <= options_of(module), command


def read_as_ray(words):
    """Have Ray's own parser read a command; it raises what it does not know."""
    program = scripts.cli
    for index, word in enumerate(words[1:], 1):
        program = program.commands[word]
        if not isinstance(program, click.Group):
            program.make_context(word, words[index + 1 :])
            return


@pytest.mark.soak
def test_the_front_door():
    """Takes some minutes; ports 6379 and 8265 must be free."""
    script = [ROOT / "tests/front_door.sh", Path(sys.executable).parent]
    subprocess.run(script, check=True, timeout=1200)
