"""One real job's output, sound at first, then damaged in every way that the audit must find."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import stylize, verify
from pipeline.data.images import codec
from pipeline.data.output import clearing, lease
from pipeline.data.storage import files, filesystems, local, uris
from pipeline.engine.audit.audit import run_audit
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings, StyleSettings, replace
from tests.conftest import image_bytes, write_parquet

SECRET = "MARKEDSECRET"
pytestmark = pytest.mark.usefixtures("local_ray")


def rows_of_manifest():
    row = {"content_uri": "c0.png", "style_uri": "s0.png", "label": None, "split": None}
    row |= {"pair_id": None, "image_size": None}
    return [
        {**row, "pair_id": "plain"},
        {**row, "pair_id": "filed", "content_uri": "c1.png", "label": "cat", "split": "val"},
        {**row, "content_uri": "c1.png"},  # its id depends on the settings
        {**row, "pair_id": "large", "image_size": 96},
        # Refused or failed, with URIs that stay as they are in the manifest, and in full.
        {**row, "pair_id": "bad", "image_size": 5},
        {**row, "pair_id": "../up\x1b[2J"},
        {**row, "pair_id": "gone", "content_uri": "none.png"},
        {**row, "pair_id": "far", "content_uri": f"http://a:{SECRET}@127.0.0.1:9/x?{SECRET}"},
    ]


@pytest.fixture(scope="module")
def sound(local_ray, tmp_path_factory, weights_file) -> JobSettings:
    """A finished job: 4 ok, 4 errors, records in several files."""
    base = tmp_path_factory.mktemp("audit")
    for index, size in enumerate([(64, 64), (48, 64)]):
        (base / f"c{index}.png").write_bytes(image_bytes(index, *size))
    (base / "s0.png").write_bytes(image_bytes(9, 64, 64))
    style = StyleSettings(weights=str(weights_file), image_size=64, iterations=3, scales=1)
    job = JobSettings(
        manifest=write_parquet(base / "m.parquet", rows_of_manifest()),
        output=str(base / "out"), rows_per_block=3, allow_schemes=("http",), actors=1,
    )  # fmt: skip
    assert run_job(style, job)["ok"] == 4
    return JobSettings(manifest=job.manifest, output=job.output)


@pytest.fixture
def copy(sound, tmp_path) -> JobSettings:
    """The same output once more, to be damaged."""
    shutil.copytree(sound.output, tmp_path / "out")
    return replace(sound, output=str(tmp_path / "out"))


def faults_of(job) -> dict[str, list[str]]:
    return {fault: sorted(named) for fault, named in run_audit(job).examples.items()}


def record_file(output, pair_id) -> tuple[Path, pa.Table]:
    for file in Path(output, "records").glob("*.parquet"):
        table = pq.read_table(file)
        if pair_id in table["pair_id"].to_pylist():
            return file, table
    raise AssertionError(f"no record of {pair_id}")


def change_record(output, pair_id, **changes):
    file, table = record_file(output, pair_id)
    rows = [row | (changes if row["pair_id"] == pair_id else {}) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def drop_record(output, pair_id):
    file, table = record_file(output, pair_id)
    pq.write_table(table.filter(pa.compute.not_equal(table["pair_id"], pair_id)), file)


def put_image(output, pair_id, file_name, data, **changes):
    """Another image, recorded as if it had been made so."""
    Path(output, file_name).write_bytes(data)
    change_record(output, pair_id, bytes=len(data), sha256=codec.sha256(data), **changes)


def test_a_finished_job_is_sound(sound, capsys):
    before = files.list_files(sound.output, {})
    verdict = run_audit(sound)
    assert not verdict.faults, verdict.examples
    assert (verdict.pairs, verdict.ok, verdict.errors, verdict.images) == (8, 4, 4, 4)
    sizes = [path.stat().st_size for path in Path(sound.output, "images").rglob("*.png")]
    assert verdict.image_bytes == sum(sizes)
    assert files.list_files(sound.output, {}) == before
    command = ["--manifest", sound.manifest, "--output", sound.output]
    for more, code in ([], 1), (["--allow-errors"], 0):
        assert verify.main([*command, *more]) == code
        out = capsys.readouterr().out.splitlines()
        assert out[0] == "8 pairs in the manifest: 4 ok, 4 errors; 4 images checked (0.0 MB)"
        assert out[1].startswith("sound, but 4 pairs failed: ")
        failed = [line for line in out if line.startswith("  failed: ")]
        assert len(failed) == 4
        assert any("does not exist" in line for line in failed)
        assert out[-1] == "python -m jobs.stylize with --retry-errors does failed pairs again"


def test_an_output_on_s3_stays_sound_with_a_consoles_marks_of_its_folders(sound, s3):
    options, bucket = s3
    output = f"s3://{bucket}/out"
    for file in files.list_files(sound.output, {}):
        name = file.removeprefix(f"{sound.output}/")
        files.write_bytes(f"{output}/{name}", Path(file).read_bytes(), options)
    fs, _ = filesystems.filesystem("s3://x", options)
    for key in ("out/", "out/images/", "out/images/val/", "out/records/", "out/__checkpoint__/"):
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"")
    assert faults_of(replace(sound, output=output, storage_options=options)) == {}


def test_while_a_run_is_at_work_there_is_no_verdict(copy, capsys):
    next(Path(copy.output, "images").glob("plain.png")).unlink()
    command = ["--manifest", copy.manifest, "--output", copy.output]
    with lease.hold(copy.output, {}, lost=lambda: None):
        assert verify.main(command) == 2
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith(f"no verdict: a run (process {os.getpid()} on ")
    assert said[2].startswith("  missing_image: 1 ")
    assert verify.main(command) == 1
    assert "not sound: 1 fault\n" in capsys.readouterr().out


def test_every_damage_to_an_image_is_found(copy):
    output = Path(copy.output)
    found = pq.read_table(output / "records").to_pylist()
    names = {row["pair_id"]: row["file_name"] for row in found}
    (derived,) = set(names) - {row["pair_id"] for row in rows_of_manifest()}
    (output / names[derived]).unlink()
    flipped = bytearray((output / names["plain"]).read_bytes())
    flipped[-20] ^= 1
    (output / names["plain"]).write_bytes(flipped)
    whole = (output / names["filed"]).read_bytes()
    put_image(output, "filed", names["filed"], whole[: len(whole) // 2])
    put_image(output, "large", names["large"], image_bytes(0, 64, 96))
    assert faults_of(copy) == {
        "missing_image": [f"{derived}: {names[derived]}"],
        "wrong_bytes": ["plain: images/plain.png"],
        "unreadable_image": ["filed: images/val/cat/filed.png"],
        "wrong_size": ["large: images/large.png"],
    }
    change_record(output, "plain", file_name="images/../job.json")
    change_record(output, "filed", file_name=None)
    change_record(output, "large", width=None, height=32)
    found = faults_of(copy)
    assert len(found["missing_image"]) == 2
    assert len(found["foreign_path"]) == 1
    assert found["wrong_size"] == ["large: images/large.png"]
    assert found["foreign_file"] == ["images/plain.png", "images/val/cat/filed.png"]


def test_every_damage_to_the_records_is_found(copy):
    output = Path(copy.output)
    drop_record(output, "large")
    drop_record(output, "gone")
    file, table = record_file(output, "plain")
    one = table.filter(pa.compute.equal(table["pair_id"], "plain"))
    pq.write_table(one, file.with_name("again.parquet"))
    _, table = record_file(output, "bad")
    stranger = table.filter(pa.compute.equal(table["pair_id"], "bad")).to_pylist()[0]
    for name, pair_id in (("more", "stranger"), ("nameless", None)):
        strangers = pa.Table.from_pylist([stranger | {"pair_id": pair_id}], schema=table.schema)
        pq.write_table(strangers, output / "records" / f"{name}.parquet")
    change_record(output, "filed", file_name="images/plain.png", **{
        name: one[name][0].as_py() for name in ("bytes", "sha256", "width", "height")
    })  # fmt: skip
    pq.write_table(pa.table({"pair_id": ["x"]}), output / "records" / "other.parquet")
    found = faults_of(copy)
    nameless, other = found.pop("unreadable_records")
    assert nameless.startswith(f"{output}/records/nameless.parquet: ")
    assert other.startswith(f"{output}/records/other.parquet: ")
    shared = found.pop("shared_image")
    assert shared in (["plain: images/plain.png"], ["filed: images/plain.png"])
    assert found == {
        "missing_record": ["gone", "large"],
        "checkpoint_without_record": ["gone", "large"],
        "duplicate_record": ["plain"],
        "unknown_record": ["stranger"],
        "foreign_file": ["images/large.png", "images/val/cat/filed.png"],
    }


def test_records_that_no_job_writes_are_faults(copy, tmp_path):
    """The other pairs are checked in spite of one such record."""
    (tmp_path / "secret.png").write_bytes(image_bytes(0, 64, 64))
    change_record(copy.output, "plain", status="done")
    change_record(copy.output, "filed", file_name="images/../../secret.png")
    change_record(copy.output, "large", file_name=str(tmp_path / "secret.png"))
    change_record(copy.output, "gone", file_name="../secret.png")
    verdict = run_audit(copy)
    found = {fault: sorted(named) for fault, named in verdict.examples.items()}
    found.pop("foreign_file")  # the images that no record names any more
    (unknown,), outside = found.pop("unknown_status"), found.pop("foreign_path")
    assert found == {}
    file, _ = record_file(copy.output, "plain")
    assert unknown == f"plain: 'done' in {file}"
    assert outside[0].startswith("filed: 'images/../../secret.png' in ")
    assert outside[1].startswith("gone: '../secret.png' in ")
    assert outside[2].startswith(f"large: '{tmp_path}/secret.png' in ")
    assert (verdict.ok, verdict.errors) == (3, 4)
    assert verify.main(["--manifest", copy.manifest, "--output", copy.output]) == 1


def test_a_status_that_no_job_writes_does_not_pass_for_done(copy, weights_file, capsys):
    style = StyleSettings(weights=str(weights_file), image_size=64, iterations=3, scales=1)
    job = replace(copy, limit=1, report=False)
    assert stylize.run(style, job, stylize.Messages()) == 0
    change_record(copy.output, "plain", status="done")
    assert stylize.run(style, job, stylize.Messages()) == 1
    assert "  unknown: 1 record with a status that no job writes; " in capsys.readouterr().out


def test_a_run_that_was_killed_in_overwrite_is_a_fault_and_a_begun_packing_is_none(copy):
    Path(copy.output, clearing.MARK).write_text("{}")
    Path(copy.output, "webdataset").mkdir()
    Path(copy.output, "parquet").mkdir()
    Path(copy.output, "parquet", f".probe{local.LEFTOVER}").touch()
    said = "__overwrite__.json: run the job again, which deletes the rest"
    assert faults_of(copy) == {"unfinished_overwrite": [said]}


def test_a_flipped_byte_in_a_record_file_is_found(copy):
    file, _ = record_file(copy.output, "plain")
    data = bytearray(file.read_bytes())
    data[-6] ^= 0xFF  # the length of the footer
    file.write_bytes(data)
    found = faults_of(copy)
    assert "plain" in found["missing_record"]
    assert len(found["unreadable_records"]) == 1


def test_foreign_and_unfinished_files_are_found_and_leftovers_passed_over(copy):
    output = Path(copy.output)
    for name in ("notes.txt", "images/x.png", "images/val/.hidden.png", "records/readme"):
        (output / name).write_text("x")
    for folder in (output, output / "images", output / "records"):
        (folder / f".abc{local.LEFTOVER}").write_text("x")
    for name in ("__lease__.json", "report.html"):
        (output / name).write_text("{}")
    (output / "images" / "val" / "cat" / "metadata.parquet").write_bytes(b"x")
    assert faults_of(copy) == {
        "foreign_file": [
            *("images/val/.hidden.png", "images/val/cat/metadata.parquet", "images/x.png"),
            *("notes.txt", "records/readme"),
        ],
    }


def mark_of(output, pair_id) -> Path:
    """The file of the checkpoint that knows a pair."""
    marks = Path(output, "__checkpoint__").glob("*.parquet")
    return next(m for m in marks if pair_id in pq.read_table(m)["pair_id"].to_pylist())


def test_where_checkpoint_and_records_differ_is_found(copy):
    output = Path(copy.output)
    _, table = record_file(output, "plain")
    together = sorted(table["pair_id"].to_pylist())
    mark = mark_of(output, "plain")
    data = mark.read_bytes()
    mark.unlink()
    assert faults_of(copy) == {"record_without_checkpoint": together}
    mark.write_bytes(b"no Parquet")
    assert faults_of(copy).keys() == {"unreadable_checkpoint"}
    mark.with_suffix(".pending.parquet").write_bytes(data)
    mark.unlink()
    found = faults_of(copy)
    assert found["missing_record"] == together
    assert len(found["half_written"]) == 1
    assert "images/plain.png" in found["foreign_file"]  # no record vouches for it


def test_a_manifest_that_changed_is_found(copy, tmp_path, sound):
    base = Path(sound.manifest).parent
    for name in ("c0.png", "c1.png", "s0.png"):
        shutil.copy(base / name, tmp_path)
    moved = replace(copy, manifest=write_parquet(tmp_path / "m.parquet", rows_of_manifest()))
    assert len(faults_of(moved)["changed_row"]) == 5  # those that are relative to its folder
    changes = {
        "plain": {"style_uri": "c1.png"},
        "filed": {"label": "dog"},
        "large": {"image_size": 80},
        "bad": {"pair_id": "renamed"},
    }
    rows = [row | changes.get(row["pair_id"], {}) for row in rows_of_manifest()]
    rows.append(rows[0] | {"pair_id": "new"})
    grown = replace(copy, manifest=write_parquet(base / "grown.parquet", rows))
    assert faults_of(grown) == {
        "changed_row": ["filed", "large", "plain"],
        "missing_record": ["new", "renamed"],
        "unknown_record": ["bad"],
    }
    assert faults_of(replace(grown, limit=8))["missing_record"] == ["renamed"]
    shrunk = run_audit(replace(copy, limit=1))
    assert (shrunk.pairs, shrunk.manifest_rows) == (1, 8)
    assert shrunk.examples.keys() == {"unknown_record"}
    assert len(shrunk.examples["unknown_record"]) == 5  # of seven


@pytest.mark.parametrize("kind", ["manifest", "output", "job", "rows", "twice"])
def test_what_cannot_be_audited_ends_with_2_and_one_clear_line(copy, tmp_path, capsys, kind):
    if kind == "job":
        Path(copy.output, "job.json").write_text("[]")
    row = rows_of_manifest()[0]
    changed, message = {
        "manifest": ({"manifest": str(tmp_path / "no.parquet")}, "no.parquet: does not exist"),
        "output": ({"output": str(tmp_path)}, "job.json does not exist; is this a job's output?"),
        "job": ({}, "job.json was not written by this program"),
        "rows": ({"manifest": write_parquet(tmp_path / "0.parquet", [row])}, "has no rows"),
        "twice": ({"manifest": write_parquet(tmp_path / "2.parquet", [row, row])}, "same pair_id"),
    }[kind]
    if kind == "rows":
        pq.write_table(pq.read_table(tmp_path / "0.parquet")[:0], tmp_path / "0.parquet")
    job = replace(copy, **changed)
    assert verify.main(["--manifest", job.manifest, "--output", job.output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_verdict_counts_names_and_shows_no_control_characters(copy, capsys):
    drop_record(copy.output, "../up\x1b[2J")
    for index in range(7):
        Path(copy.output, f"{index}.txt").touch()
    assert verify.main(["--manifest", copy.manifest, "--output", copy.output]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "not sound: 9 faults"
    assert lines[2] == "  foreign_file: 7  (0.txt; 1.txt; 2.txt; 3.txt; 4.txt; ...)"
    assert "  missing_record: 1  ('../up\\x1b[2J')" in lines
    assert "\x1b" not in "".join(lines)


def test_an_output_in_s3(sound, s3):
    options, bucket = s3
    job = replace(sound, output=f"s3://{bucket}/out", storage_options=options)
    for file in Path(sound.output).rglob("*"):
        if file.is_file():
            name = str(file.relative_to(sound.output))
            files.write_bytes(uris.join(job.output, name), file.read_bytes(), options)
    verdict = run_audit(job)
    assert not verdict.faults, verdict.examples
    assert (verdict.pairs, verdict.images) == (8, 4)
    files.delete(f"{job.output}/images/plain.png", options)
    files.write_bytes(f"{job.output}/images/val/x.png", b"x", options)
    files.write_bytes(f"{job.output}/notes/x.txt", b"x", options)
    assert faults_of(job) == {
        "missing_image": ["plain: images/plain.png"],
        "foreign_file": ["images/val/x.png", "notes"],
    }


def test_images_that_storage_refuses_are_not_called_missing(copy):
    plain = Path(copy.output, "images", "plain.png")
    plain.unlink()
    plain.mkdir()  # what is no file cannot be read, whoever asks
    found = faults_of(copy)
    assert found.keys() == {"read_failed"}
    assert found["read_failed"][0].startswith("plain: images/plain.png: ")
