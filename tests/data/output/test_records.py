"""What is done once over all records: mending them before a run, adding them up after it."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.ids import hash_ids
from pipeline.data.output import clearing, closing, dividing, fences, records, resume
from pipeline.data.output.lease import LostError
from pipeline.data.output.records import DamagedError
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, uris
from pipeline.settings import SettingError

SPLITS = ("train", None, "val")


@pytest.fixture
def output(tmp_path):
    """Twenty-four pairs in six files; every fifth failed; the checkpoint knows three more."""
    for folder in (records.RECORDS, records.CHECKPOINT, records.IMAGES):
        (tmp_path / folder).mkdir()
    rows = [record(number) for number in range(24)]
    ids = [row["pair_id"] for row in rows] + ["lost-a", "lost-b", "lost-c"]
    for part, start in enumerate(range(0, 28, 4)):
        table = pa.Table.from_pylist(rows[start : start + 4], schema=RECORD_SCHEMA)
        if len(table):
            pq.write_table(table, tmp_path / records.RECORDS / f"{part}.parquet")
        done = pa.table({"pair_id": ids[start : start + 4]})
        pq.write_table(done, tmp_path / records.CHECKPOINT / f"{part}.parquet")
    return tmp_path


def record(number):
    failed = number % 5 == 0
    split, label = SPLITS[number % 3], f"class{number % 2}"
    name = "/".join(part for part in ("images", split, label, f"p{number}.png") if part)
    return {
        "pair_id": f"p{number}",
        "manifest_row": 100 - number,
        "status": "error" if failed else "ok",
        "error_class": "not_found" if failed else None,
        "error_message": f"no {number}" if failed else None,
        "file_name": None if failed else name,
        "split": split,
        "label": "gone" if number == 10 else label,
        "bytes": None if failed else 100,
        "total_loss": None if failed else float(number),
        "load_seconds": 0.5,
    }


@pytest.mark.parametrize("together", [1, 7, 65_536])
def test_records_are_added_up_and_images_listed(output, monkeypatch, together):
    monkeypatch.setattr(closing, "TOGETHER", together)
    ids = hash_ids(f"p{number}" for number in range(24))
    summary, hashes = closing.close(str(output), {}, ids)
    assert summary["other_pairs"] == {"ok": 0, "error": 0}
    ok = [record(number) for number in range(24) if number % 5]
    assert (summary["pairs"], summary["ok"], summary["error"]) == (24, len(ok), 5)
    assert summary["errors_by_class"] == {"not_found": 5}
    assert summary["first_errors"] == [
        {"manifest_row": 100 - number, "pair_id": f"p{number}", "error_message": f"no {number}"}
        for number in (20, 15, 10, 5, 0)
    ]
    counts = {name: sum(row["split"] == name for row in ok) for name in SPLITS}
    assert summary["images_by_split"] == {"": counts.pop(None), **counts}
    assert summary["lost_classes"] == ["gone"]
    assert summary["image_bytes"] == 100 * len(ok)
    assert summary["mean"]["total_loss"] == sum(row["total_loss"] for row in ok) / len(ok)
    assert summary["seconds"]["load"] == 12.0
    assert sorted(hashes) == sorted(ids)
    for split in SPLITS:
        folder = "/".join(part for part in ("images", split) if part)
        listed = pq.read_table(output / folder / "metadata.parquet").to_pylist()
        names = {f"{folder}/{row['file_name']}" for row in listed}
        assert names == {row["file_name"] for row in ok if row["split"] == split}


def test_losses_of_pairs_that_failed_later_are_not_in_the_means(output):
    path = output / records.RECORDS / "0.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0]["total_loss"] = 1e6  # p0: made, but not written
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORD_SCHEMA), path)
    summary, _ = closing.close(str(output), {}, hash_ids(["p0", "p1", "p2"]))
    assert summary["mean"]["total_loss"] == 1.5


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"pair_id": None}, "a record has no pair_id"),
        ({"file_name": None}, "an ok record has no file_name"),
        ({"split": "../../other/images"}, "the split '../../other/images' of a record cannot be"),
    ],
    ids=str,
)
def test_a_record_that_no_job_writes_ends_a_job_before_it_leads_anywhere(output, wrong, what):
    path = output / records.RECORDS / "0.parquet"
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist([rows[0], rows[1] | wrong], schema=RECORD_SCHEMA), path)
    before = sorted(output.parent.rglob("*"))
    for reading in (
        lambda: closing.close(str(output), {}, hash_ids(["p1"])),
        lambda: dividing.divide(str(output), "webdataset", 1000, {}),
        lambda: list(records.batches(str(output), {}, [*wrong], "ok")),
    ):
        with pytest.raises(DamagedError, match=rf"/0.parquet: is damaged \(.*{what}.*delete it"):
            reading()
    assert sorted(output.parent.rglob("*")) == before
    rows[0] |= {"split": "../x"}  # a failed pair's own, which the message names
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORD_SCHEMA), path)
    closing.close(str(output), {}, hash_ids(["p1"]))


def test_records_of_an_earlier_version_lack_columns_and_are_read(output):
    """Beside some of this one, and whichever file comes first."""
    for part in (0, 3):
        path = output / records.RECORDS / f"{part}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["warnings"]), path)
    said = ["content a.jpg: was read, but its end is missing or broken"]
    path = output / records.RECORDS / "1.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[2]["warnings"] = said
    pq.write_table(pa.Table.from_pylist(rows, schema=records.RECORD_SCHEMA), path)
    found = list(records.iterate(str(output), {}, records.RECORD_SCHEMA.names))
    assert {row["pair_id"] for row in found} == {f"p{number}" for number in range(24)}
    assert [row["pair_id"] for row in found if row["warnings"]] == ["p6"]
    for ids, count in ((["p1", "p6"], 1), (["p1", "p2"], 0)):
        summary, _ = closing.close(str(output), {}, hash_ids(ids))
        assert summary["with_warnings"] == count
    assert resume.forget_errors(str(output), {}, hash_ids(["p0", "p5"])) == 2
    assert recorded(output) == {f"p{number}" for number in range(24)} - {"p0", "p5"}


def test_pairs_of_other_manifests_are_counted_apart_and_listed_all_the_same(output):
    own = [11, 5, 23, 8, 100]  # p100 has no record
    ids = hash_ids(f"p{number}" for number in own)
    summary, hashes = closing.close(str(output), {}, ids)
    assert (summary["pairs"], summary["ok"], summary["error"]) == (4, 3, 1)
    assert summary["other_pairs"] == {"ok": 16, "error": 4}
    assert summary["errors_by_class"] == {"not_found": 1}
    assert summary["image_bytes"] == 300
    assert summary["mean"]["total_loss"] == (11 + 23 + 8) / 3
    assert summary["seconds"]["load"] == 2.0
    assert len(hashes) == 24
    assert summary["lost_classes"] == ["gone"]  # of p10, whose folder is missing whoever asked
    listed = list((output / "images").rglob("metadata.parquet"))
    assert sum(pq.read_metadata(path).num_rows for path in listed) == 19


@pytest.mark.parametrize("together", [1, 3, 100])
def test_what_has_no_record_and_what_failed_is_made_undone(output, monkeypatch, together):
    monkeypatch.setattr(resume, "TOGETHER", together)
    resume.repair(str(output), {})
    known = {f"p{number}" for number in range(24)}
    assert set(resume.checkpointed_ids(str(output), {})) == known
    # A run of another manifest, or one with a limit, does only some of the failed rows.
    some = hash_ids(["p0", "p1", "p5", "not-yet"])
    assert resume.forget_errors(str(output), {}, some) == 2
    left = known - {"p0", "p5"}
    assert set(resume.checkpointed_ids(str(output), {})) == left
    assert recorded(output) == left
    assert resume.forget_errors(str(output), {}, some) == 0
    assert resume.forget_errors(str(output), {}, hash_ids(known)) == 3
    sound = {f"p{number}" for number in range(24) if number % 5}
    assert set(resume.checkpointed_ids(str(output), {})) == sound
    assert recorded(output) == sound


def recorded(output):
    return {row["pair_id"] for row in records.iterate(str(output), {}, ["pair_id"])}


def test_what_the_checkpoint_lost_is_taken_from_the_records(output):
    """Else these pairs would be done, and recorded, once more."""
    known = {f"p{number}" for number in range(24)}
    for lost in (["2.parquet"], ["0.parquet", "5.parquet"], None):
        for name in lost or os.listdir(output / records.CHECKPOINT):
            (output / records.CHECKPOINT / name).unlink()
        resume.repair(str(output), {})
        assert sorted(resume.checkpointed_ids(str(output), {})) == sorted(known)
    before = files.sizes(str(output), {})
    resume.repair(str(output), {})
    assert files.sizes(str(output), {}) == before


def test_whatever_was_left_half_written_is_deleted_or_named_in_one_line(output, capsys):
    folders = ("", "images/a/b", "records", "__checkpoint__", "webdataset", "parquet/data", "mine")
    for folder in folders:
        (output / folder).mkdir(parents=True, exist_ok=True)
        (output / folder / ".0123.writing").write_bytes(b"x")
    (output / "images" / "none.writing").write_bytes(b"x")
    resume.repair(str(output), {})
    left = {name for name in files.sizes(str(output), {}) if name.endswith(".writing")}
    assert left == {"images/none.writing", "mine/.0123.writing"}
    assert capsys.readouterr().err == ""
    for name in (".a.writing", "records/.b.writing"):
        (output / name).mkdir()  # what no unlink deletes, whoever asks
    resume.repair(str(output), {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{output}/.a.writing (IsADirectoryError: " in said
    assert f"{output}/records/.b.writing (IsADirectoryError: " in said


READERS = {
    "repair": lambda output: resume.repair(output, {}),
    "dry run": lambda output: resume.done_hashes(output, {}, retry_errors=True),
    "close": lambda output: closing.close(output, {}, hash_ids(["p0"])),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", ["no Parquet", "cut off", "bytes changed"])
def test_a_damaged_file_of_records_is_named(output, reader, damage):
    file = output / records.RECORDS / "2.parquet"
    spoil(file, damage)
    with pytest.raises(
        DamagedError, match=r"records/2\.parquet: is damaged .*; delete it, and run"
    ):
        READERS[reader](str(output))


@pytest.mark.parametrize("damage", ["no Parquet", "cut off", "bytes changed", "foreign"])
def test_a_damaged_file_of_the_checkpoint_is_named_and_can_be_done_without(output, damage):
    file = output / records.CHECKPOINT / "2.parquet"
    spoil(file, damage)
    with pytest.raises(DamagedError, match=r"__checkpoint__/2\.parquet: is damaged .*; delete it,"):
        resume.repair(str(output), {})
    file.unlink()
    resume.repair(str(output), {})
    known = {f"p{number}" for number in range(24)}
    assert set(resume.checkpointed_ids(str(output), {})) == known


def spoil(file, damage):
    data = file.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table({"x": [1]}), file)
    elif damage == "bytes changed":  # the pages; the footer, which is read first, is sound
        file.write_bytes(data[:4] + b"\xff" * 200 + data[204:])
    else:
        file.write_bytes(b"PAR1xxxx" if damage == "no Parquet" else data[: len(data) // 2])


RAYS = "0354U3bHjS9SjHst16EMfE_98165a6eeadb441e925d306634a17ce5_000002-0.parquet"
FOREIGN = ("images/holiday/photo.jpg", "images/p1.png", "records/a[0]*.txt", "records/sub/.x")


@pytest.mark.parametrize("place", ["local", "s3"])
def test_clearing_deletes_what_a_job_wrote_and_leaves_all_else(output, s3, place):
    """The records' images, those of derived ids, a damaged file by its name."""
    options, bucket = ({}, None) if place == "local" else s3
    base = str(output) if place == "local" else f"s3://{bucket}/out"
    file_names = {path.relative_to(output): path.read_bytes() for path in output.rglob("*.parquet")}
    file_names = {str(name): data for name, data in file_names.items()}
    named = [record(number)["file_name"] for number in range(24) if number % 5]
    derived = [  # a killed run's, without a record
        "images/train/cat/0123456789abcdef0123.webp", "images/cat--a--b--0123456789abcdef0123.png",
    ]  # fmt: skip
    file_names |= dict.fromkeys([*named, *derived, *FOREIGN], b"x")
    file_names |= dict.fromkeys(["images/metadata.parquet", "images/val/metadata.parquet"], b"x")
    file_names |= {f"records/{RAYS}": b"damaged", "summary.json": b"{}", "job.json": b"{}"}
    for name, data in file_names.items():
        files.write_bytes(uris.join(base, name), data, options)
    assert clearing.clear(base, options) == sorted(FOREIGN)
    assert sorted(files.sizes(base, options)) == sorted([*FOREIGN, "job.json"])
    if place == "local":
        folders = {path.relative_to(output).as_posix() for path in output.rglob("*/")}
        assert folders - {""} >= {"images/holiday"}
        assert not (output / "images" / "val").exists()  # ImageFolder would raise at it
    assert clearing.clear(base, options) == sorted(FOREIGN)


@pytest.mark.parametrize("data", [b"no parquet", None])
def test_a_foreign_parquet_among_the_records_stops_clearing_before_it_begins(output, data):
    mine = output / records.RECORDS / "mine.parquet"
    mine.write_bytes(data) if data else pq.write_table(pa.table({"pair_id": ["a"]}), mine)
    before = files.sizes(str(output), {})
    with pytest.raises(SettingError, match=r"records/mine\.parquet is not a record file of a job"):
        clearing.clear(str(output), {})
    assert files.sizes(str(output), {}) == before


def test_a_job_that_loses_its_lease_while_it_deletes_stops_there(output, monkeypatch):
    for number in range(24):
        if name := record(number)["file_name"]:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).touch()
    monkeypatch.setattr(fences, "LASTING", 0.0)
    monkeypatch.setattr(files, "DELETED_TOGETHER", 400)
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 3:
            raise LostError("taken over")

    with pytest.raises(LostError):
        clearing.clear(str(output), {}, check)
    left = list((output / "images").rglob("*.png"))
    assert len(left) == 19 - 4, "of the images only those of the first request are gone"
    assert len(list((output / "records").iterdir())) == 6
    clearing.clear(str(output), {})
    assert not list((output / "images").rglob("*.png"))
