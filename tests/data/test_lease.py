"""Who may work in an output."""

import json
import os
import socket
import subprocess
import sys
import threading
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
    monkeypatch.setattr(lease, "SETTLE", 0.5)
    monkeypatch.setattr(lease, "RENEWAL", 1.0)
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


@pytest.mark.parametrize("apart", [0.0, 0.2])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_of_several_that_find_one_dead_one_takes_its_place(place, apart, tmp_path, s3, monkeypatch):
    monkeypatch.setattr(lease, "SETTLE", 1.0)
    monkeypatch.setattr(lease, "RENEWAL", 1.0)
    options, bucket = ({}, None) if place == "local" else s3
    output = str(tmp_path) if place == "local" else f"s3://{bucket}/out"
    dead = {"run": "dead", "host": "h", "pid": os.getpid(), "renewals": 3}
    dead["process"] = [*lease._process(os.getpid())[:2], "1"]
    storage.write_bytes(uris.join(output, lease.LEASE), json.dumps(dead).encode(), options)
    seen, looked, over = threading.Barrier(3), threading.Barrier(3), threading.Barrier(3)
    inside, refused = [], []
    is_alive, write_bytes = lease._is_alive, storage.write_bytes

    def all_see_it(found):
        if found["run"] == "dead":
            time.sleep(apart * seen.wait(30))  # each has read it before anyone replaces it
        return is_alive(found)

    def all_replace_it(uri, data, options):
        if not apart and json.loads(data)["renewals"] == 0:
            looked.wait(30)
        write_bytes(uri, data, options)

    def run():
        try:
            with hold(output, options) as held:
                inside.append(held)
                over.wait(30)
        except lease.LeaseError as error:
            refused.append(str(error))
            over.wait(30)

    monkeypatch.setattr(lease, "_is_alive", all_see_it)
    monkeypatch.setattr(storage, "write_bytes", all_replace_it)
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 2)
    assert all(f"another run (process {os.getpid()} on" in text for text in refused)
    assert not storage.exists(uris.join(output, lease.LEASE), options)


def test_one_that_was_slow_to_replace_a_dead_lease_gives_the_quicker_time(tmp_path, monkeypatch):
    """Had it looked before the quicker one wrote, that one hears of it at its next renewal."""
    dead = {"run": "dead", "process": [*lease._process(os.getpid())[:2], "1"], "pid": os.getpid()}
    (tmp_path / lease.LEASE).write_text(json.dumps(dead))
    monkeypatch.setattr(lease, "SETTLE", 0.05)
    monkeypatch.setattr(lease, "RENEWAL", 0.2)
    real = storage.write_bytes

    def slow(*arguments):
        time.sleep(0.1)
        real(*arguments)

    monkeypatch.setattr(storage, "write_bytes", slow)
    started = time.monotonic()
    with hold(str(tmp_path)):
        assert time.monotonic() - started > 2 * lease.RENEWAL


@pytest.mark.parametrize("by", [None, "other"])
def test_one_that_is_stopped_while_it_takes_over_leaves_nothing_of_its_own(
    by, tmp_path, monkeypatch
):
    dead = {"run": "dead", "process": [*lease._process(os.getpid())[:2], "1"], "pid": os.getpid()}
    (tmp_path / lease.LEASE).write_text(json.dumps(dead))

    def stopped(_):
        assert json.loads((tmp_path / lease.LEASE).read_text())["pid"] == os.getpid()
        if by:
            (tmp_path / lease.LEASE).write_text(json.dumps({"run": by}))
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stopped)
    with pytest.raises(KeyboardInterrupt):
        hold(str(tmp_path)).__enter__()
    assert [json.loads(path.read_text())["run"] for path in tmp_path.iterdir()] == [by] * bool(by)


def test_a_storage_that_fails_makes_a_lease_nobody_elses(tmp_path, monkeypatch):
    with hold(str(tmp_path)) as held:
        with monkeypatch.context() as patch:

            def away(*_):
                raise RowError("read_failed", "503")

            patch.setattr(storage, "read_bytes", away)
            assert held()
        (tmp_path / lease.LEASE).unlink()
        assert not held()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_cannot_be_given_back_ends_no_run(tmp_path, monkeypatch, capsys):
    def refused(uri, _):
        raise RowError("access_denied", f"{uri}: access denied")

    with hold(str(tmp_path)):
        monkeypatch.setattr(storage, "delete", refused)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/__lease__.json: access denied; the next run")


def test_a_lease_that_is_there_for_writers_and_not_for_readers_is_not_tried_for_ever(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(storage, "create_bytes", lambda *_: False)
    with pytest.raises(lease.LeaseError, match="is there for those who would make it and not"):
        hold(str(tmp_path)).__enter__()


@pytest.mark.parametrize("process", [5, "text", [], {"a": 1}, None])
def test_a_lease_that_no_run_wrote_is_watched_as_another_machines(tmp_path, process):
    found = {"run": "x", "host": "h", "pid": 1, "process": process}
    (tmp_path / lease.LEASE).write_text(json.dumps(found))
    assert lease.holder(str(tmp_path), {}) == "process 1 on h"
