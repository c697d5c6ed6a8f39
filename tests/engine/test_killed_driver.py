"""SIGKILL of the driver at random moments, on a Ray that lives on, as a cluster's does."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import stylize, verify
from pipeline.data.output import records
from pipeline.engine import resources
from tests.conftest import equal_pairs, wait_until, write_parquet

ROOT = Path(__file__).parents[2]
BLOCK = 2
ALONE = ("-m", "jobs.stylize")
LIMITS = {"BLOCK_BYTES": 1, "MOST_FILES": 6}
"""As of a million large pictures: blocks of one pair, and several of them make a record file."""

TOGETHER = (
    "-c",
    "import sys, jobs.stylize; from pipeline.engine import resources; "
    f"vars(resources).update({LIMITS}); sys.exit(jobs.stylize.main())",
)
SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    ("how", "kills", "count", "in_flight"),
    [
        (ALONE, range(2), 24, 4 * BLOCK),
        (TOGETHER, range(1, 2), 24, 12),  # files of four: one is written, the next one gathered
        pytest.param(ALONE, range(20), 160, 4 * BLOCK, marks=SOAK),
        pytest.param(TOGETHER, range(20), 160, 80, marks=SOAK),
    ],
    ids=["alone", "together", "alone-20", "together-20"],
)
def test_every_pair_is_recorded_once_whatever_the_moment(
    ray_address, tmp_path, weights_file, monkeypatch, capsys, how, kills, count, in_flight
):
    output = str(tmp_path / "out")
    manifest = write_parquet(tmp_path / "m.parquet", equal_pairs(tmp_path, count))
    paths = ["--manifest", manifest, "--output", output]
    options = [
        *(*paths, "--weights", str(weights_file), "--batch-size", "1", "--actors", "1"),
        *("--image-size", "64", "--iterations", "30", "--tolerance", "0", "--scales", "1"),
        *(("--rows-per-block", str(BLOCK)) if how is ALONE else ()),
    ]
    command = [sys.executable, *how, *options]
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    moments = random.Random(kills.start)
    done = 0

    def recorded():
        return {row["pair_id"] for row in records.iterate(output, {}, ["pair_id"])}

    for kill in kills:
        driver = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            if kill % 3:  # two in three while pairs are being done, the others on the way there
                wait_until(lambda: driver.poll() is not None or len(recorded()) > done)  # noqa: B023
            time.sleep(moments.uniform(0, 2 if kill % 3 else 6))
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.wait()
        known = recorded()
        left = {path.stem for path in Path(output, "images").glob("*.png")} - known
        print(f"killed with {len(known)} records, {len(left)} images without one")
        assert len(known) >= done, "a committed record is gone"
        assert len(left) <= in_flight, "more than what was in flight is redone"
        done = len(known)
    for name, value in LIMITS.items() if how is TOGETHER else ():
        monkeypatch.setattr(resources, name, value)
    assert stylize.main(options) == 0
    assert f"{count} pictures and 0 errors from {count} pairs" in capsys.readouterr().out
    assert verify.main(paths) == 0
