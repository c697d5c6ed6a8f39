"""SIGKILL of the driver at random moments, on a Ray that lives on, as a cluster's does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.data import records, storage
from tests.conftest import image_bytes, write_parquet

ROOT = Path(__file__).parents[2]
BLOCK = 2


@pytest.fixture
def address():
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 10**9}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_every_pair_is_recorded_once_whatever_the_moment(address, tmp_path, weights_file, kills):
    for seed, name in enumerate(("c", "s")):
        storage.write_bytes(str(tmp_path / f"{name}.png"), image_bytes(seed, 64, 64), {})
    output, count = str(tmp_path / "out"), 8 * kills
    rows = [
        {"pair_id": f"p{i:02d}", "content_uri": "c.png", "style_uri": "s.png"} for i in range(count)
    ]
    paths = ["--manifest", write_parquet(tmp_path / "m.parquet", rows)]
    paths += ["--output", output]
    command = [
        *(sys.executable, "-m", "jobs.stylize", *paths, "--weights", str(weights_file)),
        *("--image-size", "64", "--iterations", "12", "--tolerance", "0", "--scales", "1"),
        *("--batch-size", "1", "--rows-per-block", str(BLOCK)),
    ]
    environment = os.environ | {"RAY_ADDRESS": address}
    moments = random.Random(0)
    done = 0
    for kill in range(kills):
        driver = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if kill % 3:  # two in three while pairs are being done, the others on the way there
            wait_for_more(output, done, driver)
        time.sleep(moments.uniform(0, 6))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        recorded = {row["pair_id"] for row in records.iterate(output, {}, ["pair_id"])}
        images = {path.stem for path in Path(output, "images").glob("*.png")}
        print(f"killed with {len(recorded)} records, {len(images - recorded)} images without one")
        assert len(recorded) >= done, "a committed record is gone"
        assert len(images - recorded) <= 4 * BLOCK, "more than what was in flight is redone"
        done = len(recorded)
    last = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert f"{count} ok, 0 errors of {count} pairs" in last.stdout
    audit = [sys.executable, "-m", "jobs.verify", *paths]
    verdict = subprocess.run(audit, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert verdict.returncode == 0, verdict.stdout


def wait_for_more(output, done, driver):
    for _ in range(300):
        if driver.poll() is not None or len(list(records.iterate(output, {}, ["pair_id"]))) > done:
            return
        time.sleep(0.2)
