"""A job that has lost its lease, without Ray: its tasks write nothing, and its driver stops.

``tests/data/output/test_lease.py`` has how it is lost, ``test_job`` a whole job.
"""

import pkgutil
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline.data.images import codec
from pipeline.data.output import dividing, lease, packing, records
from pipeline.data.storage import files
from pipeline.engine import flow
from pipeline.engine.checking import check
from pipeline.engine.job import _finish, _interrupt
from pipeline.engine.packing import run, tasks
from pipeline.engine.prepare import prepare
from pipeline.engine.runtime.cluster import stop_by_signals
from pipeline.engine.stages import blocks, storing
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, image_bytes, picture, write_parquet
from tests.data.output.test_shards import record, write_records


def in_turn(stage, work, given_up, settle):
    done = {name: do() for name, do in work.items()}
    settle()
    return done


BOARD = SimpleNamespace(in_turn=in_turn, add=lambda done, failed, pairs: None)


@pytest.fixture
def job(quick, tmp_path):
    """A job that may start, with one pair that waits to be stored, and images to be packed."""
    rows, output = equal_pairs(tmp_path, 1), str(tmp_path / "out")
    settings = JobSettings(
        manifest=write_parquet(tmp_path / "m.parquet", rows), output=output, format="webdataset"
    )
    data = image_bytes(0, 32, 32)
    checked = check(quick, settings)
    with lease.hold(output, {}, lambda: None) as ours:
        prepared = prepare(checked, ours.check)
        files.write_bytes(f"{output}/images/x.png", data, {})
        made = {"bytes": len(data), "sha256": codec.sha256(data)}
        write_records(output, [record("x", **made)])
        yield prepared, ours, checked


def stored(prepared) -> pa.Table:
    context = prepared.context
    pixels = (picture(0, 64, 64).permute(1, 2, 0) * 255).byte().numpy()
    row = {
        "pair_id": "p00", "manifest_row": 0, "content_uri": "c", "style_uri": ["s"],
        "style_blend": [1.0], "overrides": "{}", "file_stem": "p00", "load_seconds": 0.1,
        "__stylized_image": blocks.image_value(pixels), "total_loss": 1.0,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=context.schema(*blocks.STYLIZED))


def lose(job):
    files.write_bytes(f"{job[0].context.output}/{lease.LEASE}", b'{"run": "other"}', {})


def contents(output) -> dict[str, bytes]:
    return {name: files.read_bytes(f"{output}/{name}", {}) for name in files.sizes(output, {})}


def pack_here(ours, checked, monkeypatch):
    """Shards without Ray's tasks."""

    def write_here(packed, output, _, options):
        chunks = list(dividing.ok_records(output, packed.format, options))
        for part in packed.ranges:
            line = tasks._write_shard(part, packed, chunks, output, options)
            yield {"fault_class": None, **line}

    monkeypatch.setattr(run, "_write_shards", write_here)
    monkeypatch.setattr(tasks.ray, "get", lambda value: value)
    return run.run_packing(checked.job, ours.check)


def test_with_its_lease_a_run_writes(job, monkeypatch):
    prepared, ours, checked = job
    (row,) = storing.store(stored(prepared), prepared.context, BOARD).to_pylist()
    assert row["status"] == "ok", row["error_message"]
    assert files.exists(f"{prepared.context.output}/images/p00.png", {})
    assert flow._fenced(stored(prepared), prepared.context.fence).num_rows == 1
    assert pack_here(ours, checked, monkeypatch)["samples"] == 1


def test_the_pictures_of_a_block_share_a_look_at_the_lease(job):
    prepared, _, checked = job
    looks = []
    context = replace(prepared.context, fence=lambda: looks.append(1))
    rows = [stored(prepared).to_pylist()[0] | {"pair_id": f"p{n}", "file_stem": f"p{n}"}
            for n in range(8)]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=context.schema(*blocks.STYLIZED))
    found = storing.store(table, context, BOARD).to_pylist()
    assert [row["pair_id"] for row in found if row["status"] == "ok"] == [f"p{n}" for n in range(8)]
    assert 2 <= len(looks) <= 4, "one before the first picture, one before the records"
    assert len(files.list_files(f"{checked.output}/images", {}, ".png")) == 9


def test_without_it_its_tasks_write_nothing(job, monkeypatch):
    prepared, ours, checked = job
    files.delete(f"{checked.output}/__plan__", {})
    lose(job)
    before = contents(checked.output)
    with pytest.raises(lease.LostError):
        storing.store(stored(prepared), prepared.context, BOARD)
    with pytest.raises(lease.LostError):
        flow._fenced(stored(prepared), prepared.context.fence)
    with pytest.raises(lease.LostError):
        pack_here(ours, checked, monkeypatch)
    with pytest.raises(lease.LostError):
        prepare(checked, ours.check)
    with pytest.raises(lease.LostError):
        _finish(prepared, 1.0)
    assert contents(checked.output) == before


@pytest.mark.parametrize(
    "moment",
    [
        "prepare.make_plan",
        "prepare.resume.repair",
        "job.closing.close",
        "packing.tasks._write_shard",
    ],
)
def test_where_it_is_lost_on_the_way_the_rest_is_left_undone(job, monkeypatch, moment):
    prepared, ours, checked = job
    overwriting = replace(checked, job=replace(checked.job, overwrite=True))
    real, then = pkgutil.resolve_name(f"pipeline.engine.{moment}"), {}

    def lost_afterwards(*given, **named):
        found = real(*given, **named)
        lose(job)
        then.update(contents(checked.output))
        return found

    def work():
        if moment.startswith("prepare"):
            prepare(overwriting, ours.check)
        elif moment.startswith("job"):
            _finish(prepared, 1.0)
        else:
            pack_here(ours, checked, monkeypatch)

    monkeypatch.setattr(f"pipeline.engine.{moment}", lost_afterwards)
    with pytest.raises(lease.LostError):
        work()
    assert contents(checked.output) == then != {}


def test_shards_that_are_under_way_end_with_it(job, monkeypatch):
    _, ours, checked = job
    write = tasks._write_shard

    def late(*arguments):
        lose(job)
        return write(*arguments)

    monkeypatch.setattr(tasks, "_write_shard", late)
    with pytest.raises(lease.LostError):
        pack_here(ours, checked, monkeypatch)
    assert list(files.sizes(f"{checked.output}/webdataset", {})) == ["index.json"]
    assert packing.read_index(f"{checked.output}/webdataset", {}).digest is None
    assert records.committed_files(checked.output, {})


@pytest.mark.parametrize("main", [True, False])
def test_a_driver_is_stopped_where_sigint_is_ignored(main):
    """As a script's shell has it for what it starts with ``&``."""
    ended = []

    def work():
        threading.Timer(0.3, _interrupt, [threading.get_ident()]).start()
        try:
            for _ in range(300):
                time.sleep(0.1)
        except KeyboardInterrupt:
            ended.append(True)

    before = [(kind, signal.getsignal(kind)) for kind in (signal.SIGINT, signal.SIGTERM)]
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop_by_signals()
        if main:
            work()
        else:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        for kind, handler in before:
            signal.signal(kind, handler)
    assert ended == [True]
