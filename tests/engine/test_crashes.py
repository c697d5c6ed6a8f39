"""Processes that die under a job: poison rows, killed actors, sick machines."""

import os
import signal
import threading

import pytest
import ray

from pipeline.data import records, storage, uris
from pipeline.engine import board
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, image_bytes, wait_until, write_parquet
from tests.engine import faults
from tests.outputs import check_images, records_of
from tests.processes import descendants, processes_naming


@pytest.fixture
def start(ray_address):
    """Join Ray as a driver whose workers have a fault."""

    def start_with(fault):
        runtime_env = faults.runtime_env(fault)
        ray.init(address=ray_address, log_to_driver=False, runtime_env=runtime_env)

    yield start_with
    ray.shutdown()


@pytest.fixture
def job(tmp_path):
    """Twelve pairs in two blocks; the tests change some."""

    def make(**changes):
        rows = [row | {"image_size": 64} for row in equal_pairs(tmp_path, 12)]
        for pair_id, change in changes.items():
            rows[int(pair_id[1:])] |= change
        return JobSettings(
            manifest=write_parquet(tmp_path / "m.parquet", rows),
            output=str(tmp_path / "out"),
            batch_size=4,
            rows_per_block=6,
        )

    return make


def test_a_row_that_ends_every_process_is_given_up_and_its_neighbours_are_done(
    start, job, quick, tmp_path
):
    start("poison")
    (tmp_path / "deadly.png").write_bytes(image_bytes(2, 64, 80))
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
        wait_until(lambda: working(settings.output))
        for pid in set(descendants(os.getpid())) & set(processes_naming("StyleActor")):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill_once, daemon=True)
    killer.start()
    summary = run_job(quick, settings)
    killer.join(timeout=5)
    assert killed, "no actor was there to be killed"
    assert (summary["ok"], summary["missing"], summary["duplicates"]) == (12, 0, 0)
    check_images(settings.output, records_of(settings.output))


def working(output) -> bool:
    """Some block is done and the next one under way."""
    return bool(storage.list_files(uris.join(output, records.RECORDS), {}))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "bound", "words"),
    [
        ("sick", "MOST_GIVEN_UP", "none succeeded; the machine"),
        ("aimless", "STARTS", "ended 2 times in a row with no pair"),
    ],
)
def test_where_all_work_ends_its_process_the_job_stops(
    start, job, quick, monkeypatch, fault, bound, words
):
    monkeypatch.setattr(board, bound, 2)
    start(fault)
    with pytest.raises(ray.exceptions.RayError, match=words):
        run_job(quick, job())


def test_where_no_style_actor_can_start_the_job_stops(start, job, quick, monkeypatch):
    monkeypatch.setattr(board, "STARTS", 2)
    start("stillborn")
    with pytest.raises(ray.exceptions.RayError) as raised:
        run_job(quick, job())
    last = str(raised.value).strip().splitlines()[-1]
    assert "style actors ended while they were starting, one 2 times in a row" in last
