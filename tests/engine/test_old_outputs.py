"""Outputs of other versions of this program: earlier ones are resumed, later ones refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.output import closing, records, resume
from pipeline.data.schemas import RECORD_SCHEMA, SCHEMA_VERSION
from pipeline.engine.audit import audit
from pipeline.engine.checking import check
from pipeline.engine.prepare import prepare
from pipeline.settings import JobSettings, SettingError
from tests.conftest import write_parquet
from tests.data.output.test_versions import as_version_1
from tests.outputs import record_of

ROWS = [
    {"pair_id": f"p{number}", "content_uri": "c.png", "style_uri": "s.png", "steps": "by hand"}
    for number in range(4)
]


def record_all(prepared, output, name, only):
    """Write the records of some pairs of a plan, as a job does."""
    rows = pq.read_table(output / "__plan__").to_pylist()
    made = {"file_name": "images/x.png", "steps": 7, "evaluations": 9}
    done = [
        {**record_of(row, prepared), **made, "file_name": f"images/{row['pair_id']}.png"}
        for row in rows
        if row["pair_id"] in only
    ]
    schema = pa.schema([*RECORD_SCHEMA, *prepared.extra])
    table = pa.Table.from_pylist(done, schema=schema)
    for folder in (records.RECORDS, records.CHECKPOINT):
        (output / folder).mkdir(exist_ok=True)
    pq.write_table(table, output / records.RECORDS / f"{name}.parquet")
    ids = table.select(["pair_id"])
    pq.write_table(ids, output / records.CHECKPOINT / f"{name}.parquet")


@pytest.fixture
def begun(tmp_path, quick):
    """A job of four pairs, of which an earlier version has recorded three."""
    manifest = write_parquet(tmp_path / "m.parquet", ROWS)
    output = tmp_path / "out"
    checked = check(quick, JobSettings(manifest=manifest, output=str(output)))
    context = prepare(checked).context
    record_all(context, output, "old", {"p0", "p1", "p2"})
    file = output / records.RECORDS / "old.parquet"
    old = pq.read_table(file).drop_columns(["manifest_steps"])
    pq.write_table(as_version_1(old, taken=True), file)
    job = json.loads((output / records.JOB).read_text())
    assert job.pop("schema_version") == SCHEMA_VERSION
    (output / records.JOB).write_text(json.dumps(job))
    return checked, output


def test_an_earlier_versions_output_is_resumed(begun):
    checked, output = begun
    prepared = prepare(checked)
    assert (prepared.plan.rows, prepared.pending) == (4, 1)
    assert json.loads((output / records.JOB).read_text())["schema_version"] == SCHEMA_VERSION
    record_all(prepared.context, output, "new", {"p3"})
    found = {row["pair_id"]: row for row in records.iterate(str(output), {}, RECORD_SCHEMA.names)}
    assert {row["steps"] for row in found.values()} == {7}
    assert [found[f"p{n}"]["schema_version"] for n in range(4)] == [1, 1, 1, SCHEMA_VERSION]
    new = pq.read_table(output / records.RECORDS / "new.parquet")
    assert new["manifest_steps"].to_pylist() == ["by hand"]
    assert prepare(checked).pending == 0
    assert sorted(resume.checkpointed_ids(str(output), {})) == sorted(found)
    summary, _ = closing.close(str(output), {}, prepared.plan.id_hashes)
    assert (summary["ok"], summary["error"]) == (4, 0)


def test_a_later_versions_output_is_refused(begun):
    checked, output = begun
    job = json.loads((output / records.JOB).read_text())
    (output / records.JOB).write_text(json.dumps(job | {"schema_version": SCHEMA_VERSION + 1}))
    before = sorted(output.rglob("*"))
    with pytest.raises(SettingError, match="was written by a later version") as refused:
        prepare(checked)
    assert "\n" not in str(refused.value)
    with pytest.raises(SettingError, match="was written by a later version"):
        audit._read_job(str(Path(output, records.JOB)), {})
    assert sorted(output.rglob("*")) == before
    (output / records.JOB).write_text(json.dumps(job | {"schema_version": "two"}))
    with pytest.raises(SettingError, match="was not written by this program"):
        prepare(checked)
