"""The scripts in examples/ run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent


def run(name: str, folder: Path, *options: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray on loopback only
    env["RAY_ADDRESS"] = "local"  # not another Ray of this machine
    command = [sys.executable, str(ROOT / "examples" / name), str(folder), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples(tmp_path):
    assert "loss" in run("notebook.py", tmp_path)
    assert Image.open(tmp_path / "stylized.png").size == (128, 128)
    assert Image.open(tmp_path / "loss.png").width > 100
    told = run("ray_data.py", tmp_path)
    assert "broken: ValueError: content_image: of shape (4, 4, 3)" in told
    assert Image.open(tmp_path / "coffee.png").size == (64, 48)
    assert (tmp_path / "chelsea.png").exists()
    assert not (tmp_path / "broken.png").exists()


def test_stylised_augmentation(tmp_path):
    told = run("augment.py", tmp_path, "--quick").splitlines()
    assert told[0].startswith("1 x 40 digits, p=0.5:")
    assert sum("plain" in line and "textured" in line for line in told) == 4
    assert Image.open(tmp_path / "augment.png").size == (640, 192)
