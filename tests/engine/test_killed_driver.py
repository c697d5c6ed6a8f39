"""SIGKILL of the driver at random moments, on a Ray that lives on, as a cluster's does."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import verify
from pipeline.data import records
from tests.conftest import equal_pairs, wait_until, write_parquet

ROOT = Path(__file__).parents[2]
BLOCK = 2


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_every_pair_is_recorded_once_whatever_the_moment(
    ray_address, tmp_path, weights_file, monkeypatch, kills
):
    output, count = str(tmp_path / "out"), 8 * kills
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, count))
    paths = ["--manifest", manifest, "--output", output]
    command = [
        *(sys.executable, "-m", "jobs.stylize", *paths, "--weights", str(weights_file)),
        *("--image-size", "64", "--iterations", "12", "--tolerance", "0", "--scales", "1"),
        *("--batch-size", "1", "--rows-per-block", str(BLOCK)),
    ]
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    moments = random.Random(0)
    done = 0

    def recorded():
        return {row["pair_id"] for row in records.iterate(output, {}, ["pair_id"])}

    for kill in range(kills):
        driver = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if kill % 3:  # two in three while pairs are being done, the others on the way there
            wait_until(lambda: driver.poll() is not None or len(recorded()) > done)  # noqa: B023
        time.sleep(moments.uniform(0, 2 if kill % 3 else 6))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        known = recorded()
        left = {path.stem for path in Path(output, "images").glob("*.png")} - known
        print(f"killed with {len(known)} records, {len(left)} images without one")
        assert len(known) >= done, "a committed record is gone"
        assert len(left) <= 4 * BLOCK, "more than what was in flight is redone"
        done = len(known)
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert f"{count} ok, 0 errors of {count} pairs" in last.stdout
    assert verify.main(paths) == 0
