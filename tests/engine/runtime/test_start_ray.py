"""A Ray that cannot be had ends a job with one line, whatever Ray says of it."""

import logging
import os

import pytest
import ray

from jobs import stylize
from pipeline.engine.runtime import cluster, watcher
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, write_parquet

SLOW = "The current node timed out during startup. This could happen because of many things."


@pytest.mark.parametrize("kind", ["slow", "no directory", "address"])
def test_without_ray_a_job_ends_with_2_and_one_line(kind, quick, tmp_path, monkeypatch, capsys):
    def time_out(*_, **__):
        raise Exception(SLOW)  # as ray.init does after half a minute

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if kind == "slow":
        monkeypatch.setattr(ray, "init", time_out)
        expected = f"Ray did not start on this machine (Exception: {SLOW})"
    elif kind == "no directory":
        monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
        expected = "Ray did not start on this machine (FileNotFoundError: "
    else:
        monkeypatch.setenv("RAY_ADDRESS", "nonsense")
        expected = "Ray at nonsense cannot be reached (ValueError: "
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 1))
    assert (
        stylize.run(
            quick, JobSettings(manifest=manifest, output=str(tmp_path / "out")), stylize.Messages()
        )
        == 2
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"error: {expected}")
    assert "run the same command again" in line or "unset it to run here" in line
    assert not ray.is_initialized()


def test_ctrl_c_while_ray_starts_leaves_nothing(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", stopped)
    before = dict(os.environ)
    with pytest.raises(KeyboardInterrupt):
        cluster.start_ray(verbose=True)
    assert os.listdir(tmp_path) == []
    assert "ray" not in watcher._left, "else it takes the end of this process for a crash"
    assert os.environ["RAY_TMPDIR"] == before["RAY_TMPDIR"]


def test_a_job_that_never_started_ray_leaves_its_logger_alone():
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        cluster.stop_ray()
        assert logger.level == logging.CRITICAL
    finally:
        logger.setLevel(before)
