"""A Ray that cannot be had ends a job with one line, whatever Ray says of it."""

import pytest
import ray

from jobs import stylize
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
