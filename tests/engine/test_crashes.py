"""Processes that die under a job: poison rows, killed actors, sick machines."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray

from pipeline.data import records, storage
from pipeline.engine import board
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings
from tests.conftest import image_bytes, write_parquet
from tests.engine import faults
from tests.engine.test_job import check_images, records_of


@pytest.fixture
def start(request):
    """Start Ray with a fault in its workers."""

    def start_with(fault, cpus=2):
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env=faults.runtime_env(fault),
        )

    yield start_with
    ray.shutdown()


@pytest.fixture
def job(tmp_path):
    """Twelve pairs in one block; the tests change some."""
    storage.write_bytes(str(tmp_path / "c.png"), image_bytes(1, 64, 64), {})
    storage.write_bytes(str(tmp_path / "deadly.png"), image_bytes(2, 64, 80), {})
    storage.write_bytes(str(tmp_path / "s.png"), image_bytes(3, 64, 64), {})

    def make(**changes):
        rows = [
            {"pair_id": f"p{i:02d}", "content_uri": "c.png", "style_uri": "s.png", "image_size": 64}
            for i in range(12)
        ]
        for pair_id, change in changes.items():
            rows[int(pair_id[1:])] |= change
        return JobSettings(
            manifest=write_parquet(tmp_path / "m.parquet", rows),
            output=str(tmp_path / "out"),
            batch_size=4,
            rows_per_block=6,
        )

    return make


def test_a_row_that_ends_every_process_is_given_up_and_its_neighbours_are_done(start, job, quick):
    start("poison")
    settings = job(p01={"image_size": 96}, p08={"content_uri": "deadly.png"})
    summary = run_job(quick, settings)
    assert (summary["ok"], summary["error"], summary["missing"]) == (10, 2, 0)
    assert summary["errors_by_class"] == {"process_died": 2}
    found = records_of(settings.output)
    check_images(settings.output, found)
    assert "stylizing this pair ended 3 processes" in found["p01"]["error_message"]
    assert "loading this pair ended 3 processes" in found["p08"]["error_message"]


@pytest.mark.soak
def test_an_actor_killed_mid_batch_loses_nothing(start, job, quick):
    start("slow")
    settings = job()
    killed = []

    def kill_once():
        for _ in range(600):
            time.sleep(0.1)
            name = ""
            for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{pid}/cmdline").read_text()
                if "Stylizer" in name and working(settings.output):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return

    killer = threading.Thread(target=kill_once, daemon=True)
    killer.start()
    summary = run_job(quick, settings)
    killer.join(timeout=5)
    assert killed, "no actor was there to be killed"
    assert (summary["ok"], summary["missing"], summary["duplicates"]) == (12, 0, 0)
    check_images(settings.output, records_of(settings.output))


def working(output) -> bool:
    """Some block is done and the next one under way."""
    return bool(storage.list_files(storage.join(output, records.RECORDS), {}))


@pytest.mark.soak
def test_where_every_pair_ends_its_process_the_job_stops(start, job, quick, monkeypatch):
    monkeypatch.setattr(board, "MOST_GIVEN_UP", 2)
    start("sick")
    with pytest.raises(ray.exceptions.RayError, match="none succeeded; the machine"):
        run_job(quick, job())
