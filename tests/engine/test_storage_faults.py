"""A storage that fails now and then, one that refuses, and one that is full."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.data.errors import RowError
from pipeline.data.storage import files, tables
from pipeline.data.storage.filesystems import filesystem
from pipeline.engine.job import JobError, run_job
from pipeline.settings import JobSettings, replace
from tests.conftest import image_bytes, write_parquet
from tests.faulty_proxy import FAULTS, proxy
from tests.outputs import check_images, records_of

ROOT = Path(__file__).parents[2]
IMPATIENT = {"config_kwargs": {"connect_timeout": 2, "read_timeout": 2}}
"""How often a request is tried is the program's own choice."""


@pytest.mark.parametrize("pairs", [10, pytest.param(40, marks=pytest.mark.soak)])
def test_one_request_in_ten_fails_and_the_records_are_the_same(
    s3_server, s3, quick, local_ray, pairs
):
    options, bucket = s3
    base = f"s3://{bucket}/in"
    for index in range(4):
        files.write_bytes(f"{base}/c{index}.png", image_bytes(index, 64, 64), options)
    files.write_bytes(f"{base}/s.png", image_bytes(9, 64, 64), options)
    rows = [
        {"pair_id": f"p{i:02d}", "content_uri": f"c{i % 5}.png", "style_uri": "s.png"}
        for i in range(pairs)  # c4.png does not exist
    ]
    tables.write_table(f"{base}/m.parquet", pa.Table.from_pylist(rows), options)
    job = JobSettings(
        manifest=f"{base}/m.parquet", output=f"s3://{bucket}/out", rows_per_block=2, batch_size=2,
        actors=1,
    )  # fmt: skip
    with proxy(s3_server, rate=0.1, stall=2.5) as server:
        faulty = {"s3": {**options["s3"], **IMPATIENT, "endpoint_url": server.url}}
        summary = run_job(quick, replace(job, storage_options=faulty))
        print(f"{server.count} requests, spoilt: {dict(server.seen)}")
        assert set(server.seen) == set(FAULTS), "not every kind of fault had its turn"
    missing = {f"p{i:02d}" for i in range(4, pairs, 5)}
    assert (summary["ok"], summary["missing"]) == (pairs - len(missing), 0)
    assert summary["errors_by_class"] == {"not_found": len(missing)}
    assert summary["duplicates"] == 0
    found = records_of(job.output, options)
    check_images(job.output, found, options)
    assert {name for name, row in found.items() if row["status"] == "error"} == missing


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (400, "ExpiredToken")]
)
def test_refused_credentials_end_the_job_at_once_in_one_line(s3_server, quick, status, code):
    with proxy(s3_server, rate=0, refuse=(status, code)) as server:
        options = {"s3": {"endpoint_url": server.url, "key": "k", "secret": "MARKEDSECRET"}}
        job = JobSettings(manifest="s3://b/m.parquet", output="s3://b/o", storage_options=options)
        started = time.monotonic()
        with pytest.raises(JobError) as caught:
            run_job(quick, job)
        assert time.monotonic() - started < 10
    message = str(caught.value)
    assert message.startswith("manifest s3://b/m.parquet: cannot be reached")
    assert "\n" not in message
    assert "MARKEDSECRET" not in message
    assert 0 < server.count < 10


def test_a_storage_that_never_answers_ends_the_driver_in_one_line(quick):
    """It takes connections and says nothing. Before Ray has begun only S3's timeouts help."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        there = {"endpoint_url": f"http://127.0.0.1:{mute.getsockname()[1]}", "key": "k"}
        short = {"read_timeout": 0.5, "retries": {"max_attempts": 1}}
        options = {"s3": {**there, "secret": "x", "config_kwargs": short}}
        job = JobSettings(manifest="s3://b/m.parquet", output="s3://b/o", storage_options=options)
        started = time.monotonic()
        with pytest.raises(JobError, match=r"^manifest s3://b/m\.parquet: cannot be reached") as e:
            run_job(quick, job)
        assert time.monotonic() - started < 20
    assert "\n" not in str(e.value)
    for given, changed in (({}, {}), ({"config_kwargs": {"read_timeout": 5}}, {"read_timeout": 5})):
        fs, _ = filesystem("s3://b", {"s3": {**there, **given}})
        bounds = {"retries": {"mode": "standard", "max_attempts": 6}, "connect_timeout": 10}
        assert fs.config_kwargs == {**bounds, "read_timeout": 60, **changed}


def test_an_output_that_cannot_be_written_ends_the_job_at_once(s3_server, quick, tmp_path):
    manifest = write_parquet(tmp_path / "m.parquet", [{"content_uri": "c", "style_uri": "s"}])
    with proxy(s3_server, rate=0, refuse=(403, "AccessDenied")) as server:
        options = {"s3": {"endpoint_url": server.url, "key": "k", "secret": "x"}}
        job = JobSettings(manifest=manifest, output="s3://b/o", storage_options=options)
        with pytest.raises(JobError, match=r"^s3://b/o/__lease__\.json: access denied"):
            run_job(quick, job)
        with pytest.raises(RowError, match=r"^s3://b/o/x: access denied"):
            files.write_bytes("s3://b/o/x", b"x", options)


def test_a_write_that_does_not_fit_leaves_the_old_file_and_nothing_else(tmp_path):
    """The kernel's own limit on a file's size stands for a full disk."""
    code = f"""
import resource, signal
from pipeline.data.errors import RowError
from pipeline.data.storage import files
path = {str(tmp_path / "x.png")!r}
files.write_bytes(path, b"old", {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_bytes(path, b"x" * 5000, {{}})
except RowError as error:
    print(error.error_class, error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.startswith(f"write_failed {tmp_path}/x.png: cannot be written: OSError")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == b"old"


@pytest.mark.soak
def test_a_full_disk_stops_the_job_and_room_lets_it_go_on(tmp_path, weights_file):
    """A file system of 200 kB holds some of the results; with more room the rest is done."""
    (tmp_path / "full").mkdir()
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(image_bytes(index, 128, 128))
    rows = [
        {"pair_id": f"p{i:02d}", "content_uri": "0.png", "style_uri": "1.png", "seed": i}
        for i in range(24)
    ]
    write_parquet(tmp_path / "m.parquet", rows)
    job = (
        f"{sys.executable} -m jobs.stylize --manifest {tmp_path}/m.parquet "
        f"--output {tmp_path}/full/out --weights {weights_file} --image-size 128 --iterations 4 "
        "--scales 1 --rows-per-block 2 --init-image noise"
    )
    script = f"""
mount -t tmpfs -o size=300k tmpfs {tmp_path}/full || exit 77
{job}; echo "first exit $?"
mount -o remount,size=100m {tmp_path}/full
{job} --retry-errors; echo "second exit $?"
{sys.executable} -m jobs.verify --manifest {tmp_path}/m.parquet --output {tmp_path}/full/out
echo "verdict $?"
"""
    run = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode == 77 or "unshare:" in run.stderr:
        pytest.skip("this system lets nobody mount a file system of his own")
    print(run.stdout, run.stderr)
    assert "first exit 1" in run.stdout
    assert "No space left on device" in run.stdout + run.stderr
    assert "second exit 0" in run.stdout
    assert "verdict 0" in run.stdout
