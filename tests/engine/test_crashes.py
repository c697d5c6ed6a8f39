"""Processes that die under a job: poison rows, killed actors, sick machines."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import ray

from pipeline.data.output import dividing, records
from pipeline.data.storage import files, uris
from pipeline.engine import board
from pipeline.engine.audit.audit import run_audit
from pipeline.engine.job import run_job
from pipeline.engine.packing.run import PackingError, run_packing
from pipeline.settings import JobSettings, replace
from tests.conftest import equal_pairs, image_bytes, wait_until, write_parquet
from tests.engine import faults
from tests.outputs import check_images, records_of
from tests.processes import descendants, processes_naming


@pytest.fixture
def start(ray_address, tmp_path):
    """Join Ray as a driver whose workers have a fault. Its marks are in ``tmp_path / "marks"``."""

    def start_with(fault):
        runtime_env = faults.runtime_env(fault, tmp_path / "marks")
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


def check_crashes(marks, *kinds):
    """Each of these has ended three processes. One crash may have been a neighbour's."""
    found = faults.crashes(marks)
    assert found.keys() == set(kinds)
    assert set(found.values()) <= {2, 3}, found


def test_what_ends_every_process_is_given_up_and_its_neighbours_are_done(
    start, job, quick, tmp_path, capsys
):
    """In each stage, in packing, and in the audit. In these two something hangs once as well."""
    start("poison")
    (tmp_path / "deadly.png").write_bytes(image_bytes(2, 64, 80))
    sizes = {"p01": 96, "p03": 112, "p10": 80}
    changes = {name: {"image_size": size} for name, size in sizes.items()}
    settings = job(**changes, p08={"content_uri": "deadly.png"})
    run_job(quick, settings)
    marks, stages = tmp_path / "marks", {"loading": "p08", "stylizing": "p01", "storing": "p03"}
    check_crashes(marks, *stages)
    settings = replace(settings, format="webdataset", shard_size=0.02, stall_timeout=3.0)
    with pytest.raises(PackingError) as raised:
        run_packing(settings)
    check_crashes(marks, *stages, "packing")
    summary = json.loads(files.read_bytes(uris.join(settings.output, records.SUMMARY), {}))
    assert (summary["ok"], summary["error"], summary["missing"]) == (9, 3, 0), summary
    assert summary["errors_by_class"] == {"process_died": 3}
    found = records_of(settings.output)
    check_images(settings.output, found)
    for stage, name in stages.items():
        assert f"{stage} this pair ended 3 processes" in found[name]["error_message"]

    assert "packing this shard ended 3 processes" in str(raised.value)
    planned = dividing.divide(settings.output, "webdataset", 20_000, {}).ranges
    made = {Path(uri).name for uri in files.list_files(f"{settings.output}/webdataset", {}, "tar")}
    place = dividing.place_of("p05")
    deadly = {part.name for part in planned if part.first <= place <= part.last}
    assert made == {part.name for part in planned} - deadly != set()

    files.write_bytes(f"{settings.output}/records/deadly.parquet", b"x", {})
    verdict = run_audit(settings)
    check_crashes(marks, *stages, "packing", "reading", "opening")
    (unread,) = verdict.examples["unreadable_records"]
    assert "deadly.parquet: reading this file ended 3 processes" in unread
    (unreadable,) = verdict.examples["unreadable_image"]
    assert unreadable.startswith("p10: images/p10.png: opening this image ended 3 processes")
    assert verdict.images == 9
    assert verdict.faults.keys() == {"unreadable_image", "unreadable_records", "unfinished_shards"}
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    (packing_note,) = [line for line in noted if line.startswith("note: packing shard ")]
    (opening_note,) = [line for line in noted if line.startswith("note: opening image ")]
    assert "p11: images/p11.png made no progress for 3 s; its process was ended" in opening_note
    assert "made no progress for 3 s; its process was ended" in packing_note


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
    return bool(files.list_files(uris.join(output, records.RECORDS), {}))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("fault", "bound", "words"),
    [
        ("sick", "MOST_GIVEN_UP", "none succeeded; the machine"),
        ("aimless", "STARTS", "crashed 2 times in a row with no pair"),
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
    start("failed_start")
    with pytest.raises(ray.exceptions.RayError) as raised:
        run_job(quick, job())
    last = str(raised.value).strip().splitlines()[-1]
    assert "style actors crashed while they were starting, one 2 times in a row" in last
