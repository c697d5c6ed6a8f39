"""The command itself, in a process of its own, with a Ray of its own and then on a cluster."""

import collections
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import stylize
from pipeline.data.images import codec
from pipeline.data.output import records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.settings import StyleSettings
from tests.conftest import equal_pairs, wait_until, write_parquet
from tests.outputs import put_job_file

ROOT = Path(__file__).parent.parent.parent
PAIRS = 10


@pytest.fixture
def command(tmp_path, weights_file):
    """The command of a job of ten pairs that commits after every second one."""
    rows = [
        {**row, "init": "x", "seed": index}
        for index, row in enumerate(equal_pairs(tmp_path, PAIRS))
    ]
    rows[-1]["content_uri"] = "missing.png"
    manifest = write_parquet(tmp_path / "m.parquet", rows)
    return [
        *(sys.executable, "-m", "jobs.stylize", "--manifest", manifest),
        *("--output", str(tmp_path / "out"), "--weights", str(weights_file), "--image-size", "64"),
        *("--scales", "1", "--iterations", "20", "--tolerance", "0", "--rows-per-block", "2"),
        *("--init-image", "noise", "--actors", "1"),
    ]


def start(command, **more) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | more
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.usefixtures("forked_commands")
def test_a_stopped_job_goes_on_where_it_was(command, tmp_path, ray_address):
    output = tmp_path / "out"
    first = start(command)

    def two_files_are_committed():
        assert first.poll() is None, first.stderr.read()
        return len(records.committed_files(str(output), {})) >= 2

    wait_until(two_files_are_committed)
    first.send_signal(signal.SIGTERM)  # as ray job stop does; Ctrl-C takes the same way
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert "the same command does the rest" in errors
    assert "Traceback" not in errors
    done_before = {row["pair_id"] for row in records.iterate(str(output), {}, ["pair_id"])}

    second = start(command, RAY_ADDRESS=ray_address)
    out, errors = second.communicate(timeout=240)
    assert second.returncode == 1, errors
    assert (
        f"{PAIRS - 1} pictures and 1 error from {PAIRS} pairs\n  not_found: 1\n    pair p09: "
        in out
    )
    assert "missing.png: does not exist\n" in out
    assert f", {PAIRS - len(done_before)} to do" in errors
    found = list(records.iterate(str(output), {}, ["pair_id", "status", "sha256", "file_name"]))
    counts = collections.Counter(row["pair_id"] for row in found)
    assert len(counts) == PAIRS
    assert set(counts.values()) == {1}
    ok = [row for row in found if row["status"] == "ok"]
    for row in ok:
        assert codec.sha256((output / row["file_name"]).read_bytes()) == row["sha256"]
    assert {path.name for path in (output / "images").iterdir()} == {
        "metadata.parquet",
        *(f"{row['pair_id']}.png" for row in ok),
    }
    assert pq.read_metadata(output / "images" / "metadata.parquet").num_rows == len(ok)


def test_errors_of_another_manifest_do_not_make_a_job_fail(tmp_path, weights_file, capsys):
    """Two pairs are done; four of another manifest ended as errors in the same output."""
    mine, others = [f"p{i}" for i in range(2)], [f"old{i}" for i in range(4)]
    manifest = write_parquet(
        tmp_path / "m.parquet",
        [{"pair_id": name, "content_uri": "c.png", "style_uri": "s.png"} for name in mine],
    )
    done = {"status": "ok", "file_name": "images/x.png", "bytes": 1, "evaluations": 1}
    failed = {"status": "error", "error_class": "bad_row"}
    rows = [{"pair_id": name, **done} for name in mine]
    rows += [{"pair_id": name, **failed} for name in others]
    output = tmp_path / "out"
    put_job_file(StyleSettings(weights=str(weights_file)), manifest, output)
    for name, table in (
        (records.RECORDS, pa.Table.from_pylist(rows, schema=RECORD_SCHEMA)),
        (records.CHECKPOINT, pa.table({"pair_id": mine + others})),
    ):
        (output / name).mkdir(parents=True)
        pq.write_table(table, output / name / "0.parquet")
    arguments = ["--manifest", manifest, "--output", str(output), "--no-report"]
    for more in ([], ["--retry-errors"]):
        assert stylize.main([*arguments, *more, "--weights", str(weights_file)]) == 0
        said = capsys.readouterr().out
        assert "2 pictures and 0 errors from 2 pairs\n" in said
        assert "beside them 0 ok, 4 errors of other pairs are in this output" in said
        assert "--retry-errors" not in said
