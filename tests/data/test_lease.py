"""Who may work in an output."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.data import lease, storage, uris
from pipeline.data.errors import RowError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pipeline.data import lease
with lease.hold(sys.argv[1], {}, lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(output, options=None, lost=lambda: None):
    return lease.hold(output, options or {}, lost)


def held_elsewhere(output) -> subprocess.Popen:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, output], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_run_is_refused_and_a_killed_ones_place_is_taken_at_once(tmp_path):
    output = str(tmp_path)
    holder = held_elsewhere(output)
    try:
        with pytest.raises(lease.LeaseError, match=f"another run \\(process {holder.pid} on"):
            hold(output).__enter__()
        assert lease.holder(output, {}) == f"process {holder.pid} on {socket.gethostname()}"
    finally:
        holder.kill()
        holder.wait()
    assert (tmp_path / lease.LEASE).exists()
    assert lease.holder(output, {}) is None
    with hold(output):
        assert json.loads((tmp_path / lease.LEASE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_run_on_another_machine_is_watched(place, tmp_path, s3, monkeypatch, capsys):
    options, bucket = ({}, None) if place == "local" else s3
    output = str(tmp_path) if place == "local" else f"s3://{bucket}/out"
    monkeypatch.setattr(lease, "EXPIRY", 3.0)
    uri = uris.join(output, lease.LEASE)
    other = {"run": "x", "host": "elsewhere", "pid": 7, "process": ["boot", "space", "1"]}
    storage.write_bytes(uri, json.dumps(other).encode(), options)
    assert lease.holder(output, options) == "process 7 on elsewhere"
    with hold(output, options):  # it says nothing for three seconds: dead
        assert "process 7 on elsewhere" in capsys.readouterr().err
        assert json.loads(storage.read_bytes(uri, options))["run"] != "x"
    assert not storage.exists(uri, options)

    storage.write_bytes(uri, json.dumps(other).encode(), options)
    real = lease._read

    def renewed(*arguments):
        seen = real(*arguments)
        storage.write_bytes(
            uri, json.dumps(seen | {"renewals": os.urandom(2).hex()}).encode(), options
        )
        return seen

    monkeypatch.setattr(lease, "_read", renewed)
    with pytest.raises(lease.LeaseError, match="process 7 on elsewhere"):
        hold(output, options).__enter__()


def test_a_file_in_the_place_of_the_output_is_no_lease(tmp_path):
    (tmp_path / "out").write_bytes(b"a thesis")
    with pytest.raises(RowError, match=r"out/__lease__\.json: cannot be written: FileExistsError"):
        hold(str(tmp_path / "out")).__enter__()
    assert (tmp_path / "out").read_bytes() == b"a thesis"


def test_a_run_whose_lease_was_taken_over_hears_of_it_and_leaves_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.1)
    heard = []
    with hold(str(tmp_path), lost=lambda: heard.append(True)) as held:
        assert held()
        (tmp_path / lease.LEASE).write_text('{"run": "other"}')
        for _ in range(50):
            if heard:
                break
            time.sleep(0.1)
        assert not held()
    assert heard == [True]
    assert json.loads((tmp_path / lease.LEASE).read_text()) == {"run": "other"}
