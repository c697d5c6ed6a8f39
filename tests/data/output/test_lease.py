"""Who may work in an output."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.data.errors import RowError
from pipeline.data.output import fences, lease, lease_file, processes
from pipeline.data.storage import conditional, files, uris
from tests.faulty_proxy import proxy

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pipeline.data.output import lease
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
        started = time.monotonic()
        with pytest.raises(lease.LeaseError, match=f"another job \\(process {holder.pid} on"):
            hold(output).__enter__()
        assert time.monotonic() - started < 10, "it was seen to be alive without waiting"
        assert lease.holder(output, {}) == f"process {holder.pid} on {socket.gethostname()}"
    finally:
        holder.kill()
        holder.wait()
    assert (tmp_path / lease.LEASE).exists()
    assert lease.holder(output, {}) is None
    started = time.monotonic()
    with hold(output):
        assert time.monotonic() - started < 20, "it was seen to be dead without waiting"
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
    files.write_bytes(uri, json.dumps(other).encode(), options)
    assert lease.holder(output, options) == "process 7 on elsewhere"
    with hold(output, options):  # it says nothing for three seconds: dead
        assert "process 7 on elsewhere" in capsys.readouterr().err
        assert json.loads(files.read_bytes(uri, options))["run"] != "x"
    assert not files.exists(uri, options)

    files.write_bytes(uri, json.dumps(other).encode(), options)
    real = lease_file.read

    def renewed(*arguments):
        seen = real(*arguments)
        files.write_bytes(
            uri, json.dumps(seen | {"renewals": os.urandom(2).hex()}).encode(), options
        )
        return seen

    monkeypatch.setattr(lease_file, "read", renewed)
    with pytest.raises(lease.LeaseError, match="process 7 on elsewhere"):
        hold(output, options).__enter__()


def test_a_file_in_the_place_of_the_output_is_no_lease(tmp_path):
    (tmp_path / "out").write_bytes(b"a thesis")
    with pytest.raises(RowError, match=r"out/__lease__\.json: cannot be read: NotADirectoryError"):
        hold(str(tmp_path / "out")).__enter__()
    assert (tmp_path / "out").read_bytes() == b"a thesis"


def test_a_run_whose_lease_was_taken_over_hears_of_it_and_leaves_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", 0.1)
    heard = []
    with hold(str(tmp_path), lost=lambda: heard.append(True)) as ours:
        assert ours.held()
        (tmp_path / lease.LEASE).write_text('{"run": "other"}')
        for _ in range(50):
            if heard:
                break
            time.sleep(0.1)
        assert not ours.held()
        with pytest.raises(lease.LostError, match="another job has taken it over, or its"):
            ours.check()
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
    dead["process"] = [*processes.identify(os.getpid())[:2], "1"]
    files.write_bytes(uris.join(output, lease.LEASE), json.dumps(dead).encode(), options)
    seen, looked, over = threading.Barrier(3), threading.Barrier(3), threading.Barrier(3)
    inside, refused = [], []
    is_alive, write_bytes = processes.is_alive, files.write_bytes

    def all_see_it(found):
        if found["run"] == "dead":
            time.sleep(apart * seen.wait(30))  # each has read it before anyone replaces it
        return is_alive(found)

    def all_replace_it(uri, data, options):
        if not apart and json.loads(data)["renewals"] == 0:
            time.sleep(0.3 * looked.wait(30))  # one has looked again before the next one writes
        write_bytes(uri, data, options)

    def run():
        try:
            with hold(output, options) as ours:
                inside.append(ours)
                over.wait(30)
        except lease.LeaseError as error:
            refused.append(str(error))
            over.wait(30)

    monkeypatch.setattr(processes, "is_alive", all_see_it)
    monkeypatch.setattr(files, "write_bytes", all_replace_it)
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 2)
    assert all(f"another job (process {os.getpid()} on" in text for text in refused)
    assert not files.exists(uris.join(output, lease.LEASE), options)


def test_one_that_was_slow_to_replace_a_dead_lease_gives_the_quicker_time(tmp_path, monkeypatch):
    """Had it looked before the quicker one wrote, that one hears of it at its next renewal."""
    dead = {
        "run": "dead",
        "process": [*processes.identify(os.getpid())[:2], "1"],
        "pid": os.getpid(),
    }
    (tmp_path / lease.LEASE).write_text(json.dumps(dead))
    monkeypatch.setattr(lease, "SETTLE", 0.05)
    monkeypatch.setattr(lease, "RENEWAL", 0.2)
    real = files.write_bytes

    def slow(*arguments):
        time.sleep(0.1)
        real(*arguments)

    monkeypatch.setattr(files, "write_bytes", slow)
    started = time.monotonic()
    with hold(str(tmp_path)):
        assert time.monotonic() - started > 2 * lease.RENEWAL


@pytest.mark.parametrize("by", [None, "other"])
def test_one_that_is_stopped_while_it_takes_over_leaves_nothing_of_its_own(
    by, tmp_path, monkeypatch
):
    dead = {
        "run": "dead",
        "process": [*processes.identify(os.getpid())[:2], "1"],
        "pid": os.getpid(),
    }
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
    with hold(str(tmp_path)) as ours:
        with monkeypatch.context() as patch:

            def away(*_):
                raise RowError("read_failed", "503")

            patch.setattr(files, "read_bytes", away)
            assert ours.held()
        (tmp_path / lease.LEASE).unlink()
        assert not ours.held()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_cannot_be_given_back_ends_no_run(tmp_path, monkeypatch, capsys):
    def refused(uri, _):
        raise RowError("access_denied", f"{uri}: access denied")

    with hold(str(tmp_path)):
        monkeypatch.setattr(files, "delete", refused)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/__lease__.json: access denied; the next job")


def test_a_lease_that_is_there_for_writers_and_not_for_readers_is_not_tried_for_ever(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(conditional, "create_bytes", lambda *_: False)
    with pytest.raises(lease.LeaseError, match="exists but cannot be read, or it keeps changing"):
        hold(str(tmp_path)).__enter__()


@pytest.mark.parametrize("process", [5, "text", [], {"a": 1}, None])
def test_a_lease_that_no_run_wrote_is_watched_as_another_machines(tmp_path, process):
    found = {"run": "x", "host": "h", "pid": 1, "process": process}
    (tmp_path / lease.LEASE).write_text(json.dumps(found))
    assert lease.holder(str(tmp_path), {}) == "process 1 on h"


@pytest.mark.parametrize("exists", [True, False])
def test_a_process_that_cannot_be_seen_is_not_taken_for_dead(tmp_path, monkeypatch, exists):
    """As another user's, where /proc is mounted with hidepid=2: its number says whether it is."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        found = {
            "run": "x",
            "host": "h",
            "pid": other.pid,
            "process": processes.identify(other.pid),
        }
        real = processes.identify
        monkeypatch.setattr(
            processes, "identify", lambda pid: None if pid == other.pid else real(pid)
        )
        if not exists:
            other.kill()
            other.wait()
        assert processes.is_alive(found) is (None if exists else False)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_server_that_knows_no_conditional_writes_lets_one_run_in(
    conditions, s3_server, s3, monkeypatch
):
    monkeypatch.setattr(lease, "SETTLE", 1.0)
    monkeypatch.setattr(lease, "RENEWAL", 1.0)
    options, bucket = s3
    output = f"s3://{bucket}/out"
    with proxy(s3_server, rate=0, conditions=conditions) as server:
        there = {"s3": {**options["s3"], "endpoint_url": server.url}}
        with hold(output, there) as ours:
            with pytest.raises(lease.LeaseError, match=f"process {os.getpid()} on"):
                hold(output, there).__enter__()
            time.sleep(1.5)  # a renewal
            assert ours.held()
            uri = uris.join(output, lease.LEASE)
            assert json.loads(files.read_bytes(uri, options))["renewals"] >= 1
        assert not files.exists(uri, options)
        # Both have seen that there is none before either makes it.
        seen, over, inside, refused = threading.Barrier(2), threading.Barrier(2), [], []
        create, waited = conditional.create_bytes, threading.local()

        def both_make_it(*arguments):
            if not hasattr(waited, "once"):
                waited.once = seen.wait(30)
            return create(*arguments)

        def run():
            try:
                with hold(output, there):
                    inside.append(True)
                    over.wait(30)
            except lease.LeaseError as error:
                refused.append(str(error))
                over.wait(30)

        monkeypatch.setattr(conditional, "create_bytes", both_make_it)
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(inside), len(refused)) == (1, 1)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_renewal_never_stands_over_the_lease_of_a_run_that_came_in_between(
    place, tmp_path, s3, monkeypatch
):
    """It was paused after it had seen that all is well: S3 refuses to replace what has changed;
    elsewhere it knows that it was away for long, and both stop."""
    monkeypatch.setattr(lease, "RENEWAL", 0.2)
    options, bucket = ({}, None) if place == "local" else s3
    output = str(tmp_path) if place == "local" else f"s3://{bucket}/out"
    uri = uris.join(output, lease.LEASE)
    real, heard = lease_file.read, threading.Event()

    def pause_after_it(*arguments):
        found = real(*arguments)
        if threading.current_thread() is not threading.main_thread() and found["run"] != "other":
            files.write_bytes(uri, b'{"run": "other"}', options)
            monkeypatch.setattr(lease, "EXPIRY", 0.0)
            monkeypatch.setattr(lease, "SETTLE", -1.0)
        return found

    def work():
        with hold(output, options, lost=heard.set) as ours:
            monkeypatch.setattr(lease_file, "read", pause_after_it)
            assert heard.wait(30)
            assert not ours.held()
            raise RuntimeError

    with pytest.raises(lease.LostError):
        work()
    found = real(uri, options)
    assert found == (None if place == "local" else {"run": "other"})


def test_files_of_a_block_share_a_check_for_less_than_another_run_waits_before_it_writes(
    monkeypatch,
):
    now, checks = [100.0], []
    monkeypatch.setattr(fences, "clock", lambda: now[0])

    def look():
        checks.append(now[0])
        if now[0] > 200:
            raise lease.LostError

    check = fences.lasting(look)
    for seconds in (0.0, 0.25, 0.5, 0.5):
        now[0] += seconds
        check()
    assert checks == [100.0, 101.25]
    now[0] += 300  # the machine slept, and the lease is another run's
    for _ in range(2):
        with pytest.raises(lease.LostError):
            check()
    assert fences.LASTING < lease.SETTLE


PAUSED = """
import sys, time
from pathlib import Path
from pipeline.data.output import lease, processes
lease.RENEWAL = 300  # none is under way while it is paused
processes.identify = lambda pid: None  # as on another machine
with lease.hold(sys.argv[1], {}, lambda: None) as ours:
    print("held", flush=True)
    for number in range(1000):
        ours.check()
        Path(sys.argv[1], f"{number}.txt").touch()
        time.sleep(0.01)
"""


def test_a_run_that_was_paused_past_its_lease_writes_nothing_more(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRY", 1.5)
    monkeypatch.setattr(lease, "RENEWAL", 0.3)
    monkeypatch.setattr(lease, "SETTLE", 0.5)
    command = [sys.executable, "-c", PAUSED, str(tmp_path)]
    paused = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert paused.stdout.readline() == "held\n"
        time.sleep(0.3)
        paused.send_signal(signal.SIGSTOP)
        before = {path.name for path in tmp_path.glob("*.txt")}
        assert before
        with hold(str(tmp_path)) as ours:
            paused.send_signal(signal.SIGCONT)
            _, said = paused.communicate(timeout=60)
            assert "LostError: output" in said
            assert ours.held()
        written = {path.name for path in tmp_path.glob("*.txt")} - before
        assert len(written) <= 1  # had looked just before it was paused
    finally:
        paused.kill()
        paused.wait()
