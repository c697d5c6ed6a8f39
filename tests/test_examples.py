"""The scripts in examples/ run as a user runs them; what ``pipeline`` exports."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import pipeline
from jobs import _folders
from jobs._cli import JOB_KINDS, read_options
from pipeline.settings import JobSettings, StyleSettings, replace

ROOT = Path(__file__).parent.parent


def run(name: str, folder: Path, *options: str, ray: str = "nowhere") -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "RAY_ADDRESS": ray}
    command = [sys.executable, str(ROOT / "examples" / name), str(folder), *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_examples(tmp_path, ray_address):
    assert "loss" in run("notebook.py", tmp_path)
    assert Image.open(tmp_path / "stylized.png").size == (128, 128)
    assert Image.open(tmp_path / "loss.png").width > 100
    told = run("ray_data.py", tmp_path, ray=ray_address)
    assert "broken: ValueError: content_image: of shape (4, 4, 3)" in told
    assert Image.open(tmp_path / "coffee.png").size == (64, 48)
    assert (tmp_path / "chelsea.png").exists()
    assert not (tmp_path / "broken.png").exists()


def test_stylised_augmentation(tmp_path):
    told = run("augment.py", tmp_path, "--quick").splitlines()
    assert told[0].startswith("1 x 40 digits, p=0.5:")
    assert sum("plain" in line and "textured" in line for line in told) == 4
    assert Image.open(tmp_path / "augment.png").size == (640, 192)


def test_a_whole_job_from_python(tmp_path, ray_address):
    told = run("job.py", tmp_path, ray=ray_address).splitlines()
    assert told[:2] == ["2 pairs of 2 photographs and 2 paintings", "2 pictures, 0 errors"]
    assert told[2].endswith("/out/report.html")
    assert (tmp_path / "out/report.html").exists()
    assert [Image.open(path).size for path in (tmp_path / "out/images").glob("*.png")] == [
        (64, 48),
        (64, 48),
    ]


def test_the_example_of_a_config_file_loads():
    parser = argparse.ArgumentParser()
    config = ["--config", str(ROOT / "examples/job.yaml")]
    (job_values, style_values, folders), _ = read_options(config, parser, JOB_KINDS)
    job, manifest = _folders.settle(job_values, folders)
    style = StyleSettings(**style_values)
    assert len(job_values) + len(style_values) + len(folders) == 13  # twelve, and the endpoint
    assert job.storage_options == {"s3": {"endpoint_url": "http://127.0.0.1:9000"}}
    assert manifest.storage_options == job.storage_options
    assert (manifest.label_from, job.format, style.image_size) == ("parent", "webdataset", 512)


def test_the_class_folders_of_the_recipe(tmp_path):
    assert "2 classes of 20 pictures" in run("class_folder.py", tmp_path)
    assert len([*tmp_path.glob("photos/*/*.png")]) == 40
    assert len([*tmp_path.glob("paintings/*.png")]) == 2


def test_what_the_package_exports():
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__doc__, name
    assert pipeline.JobSettings is JobSettings
    assert pipeline.run_job.__module__ == pipeline.make_manifest.__module__ == "pipeline"
    with pytest.raises(AttributeError, match="no attribute 'run_jobs'"):
        _ = pipeline.run_jobs


def test_a_job_from_python_takes_defaults_and_may_leave_the_report_out(monkeypatch, tmp_path):
    given = []

    def instead(style, job, told):
        given.append((style, job))
        return {"ok": 2}

    monkeypatch.setattr("pipeline.engine.job.run_job", instead)
    job = JobSettings(manifest="m", output=str(tmp_path), report=False)
    assert pipeline.run_job(job) == {"ok": 2, "report": None}
    heard = []
    small = StyleSettings(image_size=64)
    done = pipeline.run_job(replace(job, report=True), small, heard.append)
    assert done == {"ok": 2, "report": None}  # there is nothing to report on: a warning
    assert heard[-1].activity.doing == "writing report.html"
    assert [style for style, _ in given] == [StyleSettings(), small]
