"""A process that is killed at each single change that it makes in storage, and the run after it.

Without Ray: what is killed here is the driver's own work, before the first pair and around the
shards. ``test_killed_driver`` kills whole jobs.
"""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.data.images import codec
from pipeline.data.output import clearing, dividing, packing, records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, local, uris
from pipeline.engine.checking import check, check_output
from pipeline.engine.packing import run as packing_run
from pipeline.engine.packing import tasks
from pipeline.engine.prepare import prepare
from pipeline.settings import JobSettings, replace
from tests.conftest import image_bytes, write_parquet
from tests.data.output.test_shards import record

CHANGES = [
    *((Path, name) for name in ("open", "unlink", "mkdir")),
    *((os, name) for name in ("replace", "rmdir")),
    *((LocalFileSystem, name) for name in ("rm", "rm_file")),
    *((MemoryFileSystem, name) for name in ("pipe_file", "rm", "rm_file")),
]
"""What changes something in storage. Where one is made of another, there is a point more."""


class KilledError(BaseException):
    """Nobody's ``except Exception``; and what runs on the way out changes nothing any more."""


class Killer:
    """Ends the process before its ``at``-th change, as far as storage can tell."""

    def __init__(self, patch, at):
        self.at, self.count = at, 0
        for owner, name in CHANGES:
            patch.setattr(owner, name, self.guarded(getattr(owner, name)))

    def guarded(self, change):
        def counted(*arguments, **options):
            reads = "r" in (*arguments[1:2], options.get("mode", "")) or "rb" in arguments[1:2]
            if not reads:
                self.count += 1
                if self.count >= self.at:
                    raise KilledError
            return change(*arguments, **options)

        return counted


@pytest.fixture
def place(request, tmp_path, weights_file, quick, monkeypatch):
    """Where an output is, that holds eight pictures and their records, and settings for a job that
    would do one more pair; a way to put the output back as it was."""
    base = str(tmp_path / "out") if request.param == "file" else "memory://out"
    file_names = {}
    rows = []
    for index in range(8):
        data, name = image_bytes(index, 32, 32), f"images/{index % 2}/p{index}.png"
        file_names[name] = data
        rows.append(record(f"p{index}", label=str(index % 2), file_name=name, bytes=len(data),
                           sha256=codec.sha256(data)))  # fmt: skip
    new = {"pair_id": "new", "content_uri": "c.png", "style_uri": "s.png"}
    manifest = write_parquet(tmp_path / "m.parquet", [new])
    job = JobSettings(manifest=manifest, output=base, format="webdataset", shard_size=0.01)
    checked = check(quick, job)
    file_names["job.json"] = json.dumps(check_output(checked)).encode()
    table = pa.Table.from_pylist(rows, schema=RECORD_SCHEMA)
    for folder, some in (("records", table), ("__checkpoint__", table.select(["pair_id"]))):
        buffer = pa.BufferOutputStream()
        pa.parquet.write_table(some, buffer)
        file_names[f"{folder}/a.parquet"] = buffer.getvalue().to_pybytes()

    def put_back():
        if request.param == "file":
            shutil.rmtree(base, ignore_errors=True)
        else:
            MemoryFileSystem.store.clear()
        for name, data in file_names.items():
            files.write_bytes(f"{base}/{name}", data, {})

    def write_here(packed, output, _, options):
        chunks = list(dividing.ok_records(output, packed.format, options))
        for part in packed.ranges:
            line = tasks._write_shard(part, packed, chunks, output, options)
            yield {"fault_class": None, **line}

    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(packing_run, "_write_shards", write_here)
    monkeypatch.setattr(tasks.ray, "get", lambda value: value)
    yield checked, put_back
    MemoryFileSystem.store.clear()


def kill_at_each_change(work, put_back, monkeypatch):
    """Yields after each kill; ends when there are no more changes to be killed at."""
    at = 0
    while True:
        at += 1
        put_back()
        with monkeypatch.context() as patch:
            killer = Killer(patch, at)
            try:
                work()
            except KilledError:
                pass
            else:
                assert killer.count == at - 1
                print(f"{at - 1} changes")
                return
        yield at


def shards_of(checked) -> dict[str, bytes]:
    folder = uris.join(checked.output, checked.job.format)
    found = files.sizes(folder, {})
    assert not any(map(local.is_leftover, found))
    return {name: files.read_bytes(uris.join(folder, name), {}) for name in found}


@pytest.mark.parametrize(
    ("place", "form"), [("file", "webdataset"), ("memory", "parquet")], indirect=["place"]
)
def test_a_kill_at_any_moment_of_packing_locks_no_output(place, form, monkeypatch):
    checked, put_back = place
    checked = replace_job(checked, format=form)

    def work():
        prepare(checked)
        packing_run.run_packing(checked.job)

    put_back()
    work()
    whole = shards_of(checked)
    assert len(whole) > 2
    for at in kill_at_each_change(work, put_back, monkeypatch):
        work()
        assert shards_of(checked) == whole, at


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_a_kill_while_another_format_was_begun_leaves_nothing_behind(place, monkeypatch):
    checked, put_back = place
    for at in kill_at_each_change(lambda: prepare(checked), put_back, monkeypatch):
        prepare(replace_job(checked, format="files"))
        left = [name for name in files.sizes(checked.output, {}) if local.is_leftover(name)]
        assert left == [], at


@pytest.mark.parametrize("place", ["file", "memory"], indirect=True)
def test_what_overwrite_began_to_delete_is_deleted_by_whichever_run_comes_next(place, monkeypatch):
    """Without the option as well: records whose images are gone are nobody's results."""
    checked, put_back = place

    def put_back_with_shards():
        put_back()
        packing_run.run_packing(checked.job)

    def work():
        clearing.clear(checked.output, {})

    ends = set()
    for at in kill_at_each_change(work, put_back_with_shards, monkeypatch):
        prepare(checked)
        rows = list(records.iterate(checked.output, {}, ["file_name"]))
        for row in rows:
            assert files.exists(uris.join(checked.output, row["file_name"]), {}), at
        ends.add(len(rows))
        packing_run.run_packing(checked.job)
        assert packing.own_index(checked.output, "webdataset", {}).digest is not None
    assert ends == {0, 8}


def replace_job(checked, **changes):
    return type(checked)(**{**vars(checked), "job": replace(checked.job, **changes)})
