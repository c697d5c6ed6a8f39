"""An output that several versions of this program have written."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.ids import hash_ids
from pipeline.data.output import clearing, closing, dividing, records, resume
from pipeline.data.schemas import RECORD_SCHEMA, SCHEMA_VERSION
from pipeline.engine.audit import tasks
from pipeline.report.page import make_report
from pipeline.settings import SettingError, StyleSettings
from tests.test_report import data_of

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)


def record(number):
    """The record of a pair; every fourth failed."""
    failed = number % 4 == 0
    made = {
        "file_name": f"images/cat/p{number}.png", "width": 32, "height": 32, "bytes": 100,
        "sha256": "0" * 64, "total_loss": 1.0, "content_loss": 0.5, "style_loss": 0.5,
        "loss_history": [2.0, 1.0], "steps": number, "evaluations": 10 + number,
        "stop_reason": "iterations", "device": "cpu",
    }  # fmt: skip
    return {
        "pair_id": f"p{number}",
        "manifest_row": number,
        "status": "error" if failed else "ok",
        "error_class": "not_found" if failed else None,
        "error_message": "gone" if failed else None,
        "content_uri": "/in/c.png",
        "style_uri": ["/in/s.png"],
        "style_blend": [1.0],
        "label": "cat",
        **({} if failed else made),
        **dict.fromkeys(records.SECONDS, 0.5),
        "batch_size": 1,
        "settings": json.dumps(vars(StyleSettings())),
        "weights": "compact",
        "weights_digest": "d",
        "versions": "{}",
        "finished_at": NOW,
        "schema_version": SCHEMA_VERSION,
    }


def as_version_1(table, taken=None):
    """The table as the first version wrote it, with a manifest's column ``steps`` carried along."""
    names = ["iterations" if name == "steps" else name for name in table.column_names]
    table = table.rename_columns(names).drop_columns(["schema_version"])
    return table.append_column("steps", pa.array(["twelve"] * len(table))) if taken else table


@pytest.fixture(params=["old first", "new first", "all old", "all new", "names taken"])
def output(tmp_path, request):
    """Twelve pairs in three files of one version or two."""
    old = {"old first": {0}, "new first": {1, 2}, "all new": set()}.get(request.param, {0, 1, 2})
    old = {0, 2} if request.param == "names taken" else old
    for folder in (records.RECORDS, records.CHECKPOINT, records.IMAGES):
        (tmp_path / folder).mkdir()
    for part in range(3):
        rows = [record(number) for number in range(part * 4, part * 4 + 4)]
        table = pa.Table.from_pylist(rows, schema=RECORD_SCHEMA)
        if part in old:
            table = as_version_1(table, request.param == "names taken")
        pq.write_table(table, tmp_path / records.RECORDS / f"{part}.parquet")
        done = pa.table({"pair_id": [row["pair_id"] for row in rows]})
        pq.write_table(done, tmp_path / records.CHECKPOINT / f"{part}.parquet")
    job = {"settings": vars(StyleSettings()), "fingerprint": "f", "weights_digest": "d", "rows": 12}
    records.write_json(str(tmp_path / records.JOB), job, {})
    return tmp_path, old


def test_records_of_all_versions_are_read_under_todays_names(output):
    folder, old = output
    found = list(records.iterate(str(folder), {}, RECORD_SCHEMA.names))
    expected = [record(number) for number in range(12)]
    assert [row["pair_id"] for row in found] == [row["pair_id"] for row in expected]
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        version = 1 if number // 4 in old else SCHEMA_VERSION
        known = {name: wanted.get(name) for name in RECORD_SCHEMA.names}
        assert row == known | {"schema_version": version}
    errors = list(records.iterate(str(folder), {}, ["pair_id", "steps"], status="error"))
    assert errors == [{"pair_id": f"p{number}", "steps": None} for number in (0, 4, 8)]


def test_an_output_of_several_versions_is_mended_closed_packed_and_cleared(output):
    folder = str(output[0])
    ids = hash_ids(f"p{number}" for number in range(12))
    resume.repair(folder, {})
    assert len(list(resume.checkpointed_ids(folder, {}))) == 12
    assert len(resume.done_hashes(folder, {}, retry_errors=True)) == 9
    summary, _ = closing.close(folder, {}, ids)
    assert (summary["ok"], summary["error"]) == (9, 3)
    assert summary["mean"]["evaluations"] == sum(10 + n for n in range(12) if n % 4) / 9
    packed = dividing.divide(folder, "webdataset", 10**9, {})
    assert packed.samples == 9
    (table,) = dividing.ok_records(folder, "webdataset", {})
    assert len(dividing.select(table, packed.ranges[0])) == 9
    assert resume.forget_errors(folder, {}, ids) == 3
    summary, _ = closing.close(folder, {}, ids)
    assert (summary["ok"], summary["error"]) == (9, 0)
    assert [row["steps"] for row in records.iterate(folder, {}, ["steps"])] == [
        number for number in range(12) if number % 4
    ]
    assert clearing.clear(folder, {}) == []
    assert records.records_dataset(folder, {}) is None


def test_an_audit_and_a_report_read_all_versions(output):
    folder, _ = output
    file_names = records.committed_files(str(folder), {})
    found = [row for file in file_names for row in tasks._read_file(file, {}, "/in")]
    assert [row["pair_id"] for row in found] == [f"p{number}" for number in range(12)]
    assert not any(row.get("fault") for row in found)
    made = make_report(str(folder), {}, thumbnails=0)
    assert (made.pairs, made.listed) == (12, 12)
    data = data_of((folder / records.REPORT).read_text())
    assert data["counts"] == {"rows": 12, "ok": 9, "originals": 0, "error": 3}
    columns = data["pairs"]["columns"]
    assert columns["id"] == [f"p{number}" for number in range(12)]
    assert columns["evaluations"] == [10 + n if n % 4 else None for n in range(12)]


def test_an_output_of_a_later_version_is_refused_in_one_line():
    for version in (1, SCHEMA_VERSION):
        records.refuse_later_version({"schema_version": version}, "/out")
    records.refuse_later_version({}, "/out")
    with pytest.raises(SettingError, match=r"output /out: was written by a later version .*update"):
        records.refuse_later_version({"schema_version": SCHEMA_VERSION + 1}, "/out")
