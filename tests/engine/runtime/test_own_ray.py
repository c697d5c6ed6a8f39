"""The Ray that a job starts for itself: whose it is, and what stays of it after a death."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.engine.runtime import cluster, pulse, watcher
from tests.conftest import equal_pairs, free_port, wait_until, write_parquet
from tests.processes import descendants, processes_naming

ROOT = Path(__file__).parents[3]


def test_the_files_of_a_ray_of_ones_own_go_with_it_unless_it_was_verbose(monkeypatch, tmp_path):
    for keep in (False, True):
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        folder = cluster.private_ray.make_folder()
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        with Path(folder, "log").open("w") as log:
            worker = subprocess.Popen(["sleep", "600"], stdout=log)
        cluster._own.folder, cluster._own.keep = folder, keep
        cluster.stop_ray()
        wait_until(lambda: worker.poll() is not None, 10)  # noqa: B023
        assert worker.returncode == -signal.SIGKILL
        assert Path(folder).exists() == keep


WAITING = """
import time
from pipeline.engine.runtime import cluster
cluster.start_ray(verbose=False)
print("ready", flush=True)
time.sleep(60)
"""


def test_a_raylet_that_is_gone_ends_a_driver_that_only_waits():
    """Ray's core does not: it ends a driver that asks something of the raylet."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="t") as place:
        driver = subprocess.Popen(
            [sys.executable, "-c", WAITING], cwd=ROOT, env=environment | {"RAY_TMPDIR": place},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert driver.stdout.readline() == "ready\n", driver.communicate()
            (folder,) = Path(place).iterdir()
            (raylet,) = [each for each in pulse.of_folder(str(folder)) if each.name == "raylet"]
            given = Path(f"/proc/{raylet.pid}/environ").read_bytes()
            assert f"{cluster.private_ray.IDLE_WORKERS}=".encode() in given
            time.sleep(3 * pulse.INTERVAL)
            assert driver.poll() is None
            os.kill(raylet.pid, signal.SIGKILL)
            wait_until(lambda: driver.poll() is not None, 30)
        finally:
            driver.kill()
            watcher.clear(place)
    assert driver.returncode == 1
    (line,) = driver.stderr.read().splitlines()
    reason = "Ray's node manager (raylet) has ended (killed, or out of memory)"
    assert line.startswith(f"error: {reason}")


@pytest.mark.parametrize("victim", ["gcs_server", "raylet", "driver"])
def test_whatever_ends_a_run_nothing_of_it_stays_but_what_is_recorded(
    victim, tmp_path, weights_file
):
    output = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "jobs.stylize", "--output", str(output)),
        *("--manifest", write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, 4))),
        *("--weights", str(weights_file), "--image-size", "64", "--scales", "1"),
        *("--iterations", "100000", "--tolerance", "0", "--quiet"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with tempfile.TemporaryDirectory(prefix="t") as place, (tmp_path / "said").open("wb") as said:
        environment |= {"RAY_TMPDIR": place}
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
        try:

            def at_work() -> bool:
                assert driver.poll() is None, (tmp_path / "said").read_text()
                return bool(set(descendants(driver.pid)) & set(processes_naming("StyleActor")))

            wait_until(at_work, 120)
            (folder,) = Path(place).iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            assert (output / "__plan__").is_dir()
            victims = {each.name: each.pid for each in pulse.of_folder(str(folder))}
            os.kill({**victims, "driver": driver.pid}[victim], signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda: driver.poll() is not None, 50)
            assert driver.returncode == (-signal.SIGKILL if victim == "driver" else 1)
            print(f"the driver ended after {time.monotonic() - killed:.1f} s")
            wait_until(lambda: not folder.exists(), 30)
            print(f"all was gone after {time.monotonic() - killed:.1f} s")
        finally:
            driver.kill()
            watcher.clear(place)
    assert watcher.processes_of(str(folder)) == []
    assert not (output / "__plan__").exists()
    (line,) = (tmp_path / "said").read_text().splitlines()
    reasons = {
        "gcs_server": "Ray's control service (gcs_server) has ended",
        "raylet": "Ray's node manager (raylet) has ended",
    }
    # Ray's core may end the driver before it can say which part of Ray is gone.
    mute = "this run's process, or its Ray, was ended (killed, or out of memory)"
    known = [mute] if victim == "driver" else [reasons[victim], mute]
    assert any(line.startswith(f"error: {reason}") for reason in known)
    assert line.endswith("what is recorded stays, the same command does the rest")


def test_a_plan_that_is_another_runs_by_now_stays(tmp_path):
    (tmp_path / "__plan__").mkdir()
    (tmp_path / "__lease__.json").write_text('{"run": "first"}')
    left = watcher.plan_of(str(tmp_path), str(tmp_path / "__plan__"), {})
    (tmp_path / "__lease__.json").write_text('{"run": "second"}')
    watcher._delete_plan(*left)
    assert (tmp_path / "__plan__").exists()
    (tmp_path / "__lease__.json").write_text('{"run": "first"}')
    watcher._delete_plan(*left)
    assert not (tmp_path / "__plan__").exists()


def test_a_clusters_control_service_that_is_gone_ends_the_run(monkeypatch):
    said = []
    monkeypatch.setattr(pulse.watcher, "give_up", said.append)
    monkeypatch.setattr(pulse.ray, "is_initialized", lambda: True)
    for name in ("INTERVAL", "GCS_INTERVAL", "GCS_PATIENCE"):
        monkeypatch.setattr(pulse, name, 0.1)
    address = f"127.0.0.1:{free_port()}"
    stop = pulse.watch([], address)
    wait_until(lambda: said, 10)
    stop()
    assert said[0].startswith(f"Ray's control service (gcs_server) at {address} has ended")


def test_the_raylet_of_a_joined_cluster_is_known(local_ray):
    (raylet,) = pulse.of_cluster()
    assert raylet.name == "raylet"
    assert not raylet.is_gone()


def test_a_long_folder_for_temporary_files_is_not_where_ray_goes(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    folder = Path(cluster.private_ray.make_folder())
    assert folder.parent == Path("/tmp")
    folder.rmdir()
