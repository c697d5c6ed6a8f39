"""One job's output, packed on Ray and loaded by the libraries that users have."""

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported
import datasets
import torchvision
import webdataset
from PIL import Image

from jobs import stylize
from pipeline.data.images import codec
from pipeline.data.output import clearing, packing, records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files
from pipeline.engine.audit.audit import run_audit
from pipeline.engine.audit.shards import compare_listings, wrong_shards
from pipeline.engine.board import Board
from pipeline.engine.job import run_job
from pipeline.engine.packing import run as packing_run
from pipeline.engine.packing.run import PackingError, run_packing
from pipeline.settings import JobSettings, StyleSettings, replace
from tests.conftest import image_bytes, write_parquet
from tests.data.output.test_shards import record, write_records
from tests.engine.audit.test_audit import drop_record
from tests.web_server import serving

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
SECRET = "MARKEDSECRET"
TRAIN = ["a.0", "a.1", "a.2", "w0", "w1"]
pytestmark = pytest.mark.usefixtures("local_ray")


def rows_of_manifest(port):
    """8 that can be done, 5 of train and 3 of val; all of val's emus and of train's newts fail."""
    row = {"content_uri": "c.png", "style_uri": "s.png"}
    rows = [{**row, "split": "train", "label": "cat", "pair_id": f"a.{i}"} for i in range(3)]
    rows += [{**row, "split": "train", "label": "wolf", "pair_id": f"w{i}"} for i in range(2)]
    rows += [{**row, "split": "val", "label": "cat", "pair_id": f"v{i}"} for i in range(2)]
    rows += [
        {**row, "split": "val", "label": "wolf", "pair_id": "w.v"},
        {**row, "split": "val", "label": "emu", "pair_id": "e", "content_uri": "none.png"},
        {**row, "split": "train", "label": "newt", "pair_id": "n", "content_uri": "none.png"},
    ]
    rows[0]["style_uri"] = f"http://user:{SECRET}@127.0.0.1:{port}/s.png?sig={SECRET}"
    return rows


@pytest.fixture(scope="module")
def finished(local_ray, tmp_path_factory, weights_file):
    """A job with shards of both formats, its style, the first run's summary, and what that said.

    Nobody changes the output.
    """
    base = tmp_path_factory.mktemp("formats")
    (base / "c.png").write_bytes(image_bytes(0, 64, 64))
    (base / "s.png").write_bytes(image_bytes(9, 64, 64))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=base)
    with serving(handler) as server:
        style = StyleSettings(weights=str(weights_file), image_size=64, iterations=3, scales=1)
        job = JobSettings(
            manifest=write_parquet(base / "m.parquet", rows_of_manifest(server.server_port)),
            output=str(base / "out"), allow_schemes=("http",), embed_metadata=True,
            format="webdataset", shard_size=0.02, actors=1,
        )  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()) as said:
            summary = run_job(style, job)
        # Once more, with nothing to do but Parquet shards.
        again = run_job(style, replace(job, format="parquet"))
    assert again["last_run"]["pairs"] == 0
    return job, style, summary, said.getvalue()


def test_the_job_made_all_it_could(finished):
    job, _, summary, said = finished
    assert (summary["ok"], summary["error"]) == (8, 2)
    assert summary["lost_classes"] == ["train/newt", "val/emu"]
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "no image was made of class train/newt, val/emu: torchvision's ImageFolder" in warning
    assert summary["packed"]["samples"] == 8
    index = packing.read_index(f"{job.output}/webdataset", {})
    assert summary["packed"]["shards"] == len(index.shards) > 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_webdataset_loads_the_tars(finished, split):
    job = finished[0]
    index = packing.read_index(f"{job.output}/webdataset", {})
    mine = [shard for shard in index.shards if shard.split == split]
    assert [shard.name for shard in mine] == [f"{split}-{i:06d}.tar" for i in range(len(mine))]
    urls = f"{job.output}/webdataset/{split}-{{000000..{len(mine) - 1:06d}}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len(samples) == {"train": 5, "val": 3}[split] == sum(shard.samples for shard in mine)
    classes = json.loads(Path(job.output, "webdataset", "classes.json").read_text())
    assert classes == {"cat": 0, "emu": 1, "newt": 2, "wolf": 3}
    for sample in samples:
        assert sample.keys() - {"__local_path__"} == {"__key__", "__url__", "cls", "json", "png"}
        assert sample["png"].size == (64, 64)
        assert sample["cls"] == classes[sample["json"]["label"]]
    found = {sample["json"]["pair_id"]: sample["__key__"] for sample in samples}
    if split == "train":
        assert sorted(found) == TRAIN
    else:
        assert found["w.v"] == "w%2Ev"


def test_torchvision_and_datasets_load_the_image_files(finished, tmp_path):
    job = finished[0]
    for split, count in {"train": 5, "val": 3}.items():
        data = torchvision.datasets.ImageFolder(f"{job.output}/images/{split}")
        assert len(data) == count
        assert data.classes == ["cat", "wolf"]
    place = f"{job.output}/images"
    data = datasets.load_dataset("imagefolder", data_dir=place, cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 5, "validation": 3}
    row = next(row for row in data["train"] if row["pair_id"] == "w1")
    assert (row["label"], row["image"].size) == ("wolf", (64, 64))


@pytest.mark.parametrize("name", ["directory", "parquet"])
def test_datasets_loads_the_parquet_files(finished, tmp_path, name):
    place = f"{finished[0].output}/parquet"
    asked = {"path": place} if name == "directory" else {"path": "parquet", "data_dir": place}
    data = datasets.load_dataset(**asked, cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 5, "val": 3}
    features = data["train"].features
    assert isinstance(features["image"], datasets.Image)
    assert features["label"] == datasets.ClassLabel(names=["cat", "emu", "newt", "wolf"])
    assert features["style_uri"] == datasets.List(datasets.Value("string"))
    row = next(row for row in data["train"] if row["pair_id"] == "w1")
    assert (features["label"].int2str(row["label"]), row["image"].size) == ("wolf", (64, 64))


def test_the_examples_in_the_documentation_run(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(finished[0].output).parent)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(examples) == 7
    for example in examples:
        found: dict = {}
        exec(example, found)
        assert found["image"].size == (64, 64)
        assert found.get("label", "cat") in ("cat", "wolf")
    assert found["made"]["pair_id"] == "a.1"


def test_an_image_says_how_it_was_made_and_no_file_has_the_secret(finished):
    output = Path(finished[0].output)
    with Image.open(output / "images" / "train" / "cat" / "a.0.png") as image:
        made = json.loads(image.text["Description"])
        assert image.text["Software"].startswith("neural-style-pipeline ")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/s\.png", made["style_uri"][0])
    assert made["settings"]["iterations"] == 3
    row = next(r for r in records.iterate(str(output), {}, RECORD_SCHEMA.names)
               if r["pair_id"] == "a.0")  # fmt: skip
    assert {name: made[name] for name in ("total_loss", "weights_digest", "stop_reason")} == {
        name: row[name] for name in ("total_loss", "weights_digest", "stop_reason")
    }
    for path in output.rglob("*.*"):
        if path.suffix == ".parquet":
            assert SECRET not in str(pq.read_table(path).to_pylist()), path
        elif path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_an_audit_knows_the_shards(finished):
    verdict = run_audit(finished[0])
    assert not verdict.faults, verdict.examples


def test_a_job_whose_images_are_gone_ends_with_1_and_says_so(finished, tmp_path, capsys):
    job, style, _, _ = finished
    output = tmp_path / "out"
    shutil.copytree(job.output, output)
    next((output / "images" / "val").rglob("w.v.png")).unlink()
    assert (
        stylize.run(style, replace(job, output=str(output), shard_size=1.0), stylize.Messages())
        == 1
    )
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "w.v.png: does not exist; no index was written" in line
    (output / "parquet" / "index.json").unlink()
    (output / "parquet" / "mine.txt").write_text("precious")
    assert (
        stylize.run(style, replace(job, output=str(output), format="parquet"), stylize.Messages())
        == 2
    )
    assert "parquet holds files but no index.json" in capsys.readouterr().err
    (output / "webdataset" / "mine.txt").write_text("precious")
    assert clearing.clear(str(output), {}) == []
    left = {path.name for path in output.iterdir()}
    assert left == {"parquet", "webdataset", "job.json"}
    assert len(list((output / "parquet" / "data").iterdir())) > 0, "nobody says that it is ours"
    assert [path.name for path in (output / "webdataset").iterdir()] == ["mine.txt"]


# What follows is done to an output in which nothing but records and images is real.


@pytest.fixture
def job(tmp_path) -> JobSettings:
    """12 ok pairs in two splits and two classes, not yet packed, and one that failed."""
    output, rows = str(tmp_path / "out"), []
    for index in range(12):
        split, data = ("val" if index % 3 == 0 else "train"), image_bytes(index, 32, 32)
        name = f"images/{split}/{index % 2}/p{index}.png"
        files.write_bytes(f"{output}/{name}", data, {})
        rows.append(record(
            f"p{index}", split=split, label=str(index % 2), file_name=name, bytes=len(data),
            sha256=codec.sha256(data),
        ))  # fmt: skip
    rows.append(record("failed", status="error", file_name=None, bytes=None, label="2"))
    for part in range(3):
        write_records(output, rows[part::3], str(part))
    return JobSettings(manifest="m", output=output, format="webdataset", shard_size=0.01)


def shards_of(job) -> dict[str, bytes]:
    folder = Path(job.output, job.format)
    names = [path for path in folder.rglob("*") if path.suffix in (".tar", ".parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def faults_of(job) -> dict[str, list[str]]:
    """What an audit says of the shards."""
    faults: dict[str, list[str]] = {}

    def add(fault, what):
        faults.setdefault(fault, []).append(what)

    there = compare_listings(job.output, job.storage_options or {}, add)
    board = Board.create()
    for fault, what in wrong_shards(there, job.output, job.storage_options or {}, board):
        add(fault, what)
    return faults


def test_shards_are_left_alone_until_something_changes(job, capsys):
    told = []
    packed = run_packing(job, on_progress=told.append)
    assert [(some.done, some.total) for some in told] == [(done, 4) for done in range(1, 5)]
    assert "%|" not in capsys.readouterr().err, "a library draws no bar"
    folder = Path(job.output, "webdataset")
    before, times = shards_of(job), {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert packed == {"folder": str(folder), "shards": len(before), "samples": 12}
    assert len(before) == 4
    assert faults_of(job) == {}
    (folder / "notes.txt").write_text("mine")
    (folder / "train-000099.tar").write_bytes(b"of an earlier packing, killed before it cleaned up")
    assert run_packing(job) == packed
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert shards_of(job) == before

    drop_record(job.output, "p0")
    (said,) = faults_of(job)["stale_shards"]
    assert said.startswith("webdataset/: made from other images than there are now; run the job")
    capsys.readouterr()
    assert run_packing(replace(job, format="files")) is None
    assert "not those of the images that there are now" in capsys.readouterr().err
    assert run_packing(replace(job, shard_size=1))["samples"] == 11
    assert shards_of(job).keys() == {"train-000000.tar", "val-000000.tar"}
    assert faults_of(job) == {"foreign_file": ["webdataset/notes.txt"]}


def test_the_same_records_give_the_same_bytes(job, tmp_path):
    for form in packing.FORMATS:
        run_packing(replace(job, format=form))
    others = replace(job, output=str(tmp_path / "other"))
    shutil.copytree(f"{job.output}/images", f"{others.output}/images")
    table = pq.read_table(f"{job.output}/records")
    write_records(others.output, table.to_pylist()[::-1])
    for form in packing.FORMATS:
        run_packing(replace(others, format=form))
        assert shards_of(replace(job, format=form)) == shards_of(replace(others, format=form))


@pytest.mark.parametrize("form", packing.FORMATS)
def test_a_packing_that_was_killed_is_completed_by_the_next(job, form, monkeypatch):
    job = replace(job, format=form)
    real, died = packing.write_index, []
    write_shards = packing_run._write_shards

    def die_after_some(*arguments):
        yield next(write_shards(*arguments))
        died.append("writing")
        raise KeyboardInterrupt

    def die_before_the_index(folder, index, options):
        if index.digest is not None:
            died.append("index")
            raise KeyboardInterrupt
        real(folder, index, options)

    def die_before_cleaning(*_):
        died.append("stale")
        raise KeyboardInterrupt

    for place, name, way in (
        (packing_run, "_write_shards", die_after_some),
        (packing, "write_index", die_before_the_index),
        (packing, "is_stale", die_before_cleaning),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, way)
            with pytest.raises(KeyboardInterrupt):
                run_packing(job)
        for data in shards_of(job).values():  # none is there in part
            if form == "webdataset":
                with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                    assert len(tar.getmembers()) % 3 == 0
                assert data.endswith(b"\0" * 1024)
            else:
                pq.read_table(io.BytesIO(data))
        finished = died[-1] == "stale"
        remedy = f"{form}/: run the job again with --format {form}, or delete that folder"
        assert faults_of(job) == ({} if finished else {"unfinished_shards": [remedy]})
    assert died == ["writing", "index", "stale"]
    whole = shards_of(job)
    assert run_packing(job)["samples"] == 12
    assert shards_of(job) == whole
    assert faults_of(job) == {}


def test_an_audit_finds_damaged_shards_and_the_next_run_mends_missing_ones(job):
    run_packing(job)
    folder = Path(job.output, "webdataset")
    whole = shards_of(job)
    (folder / "train-000000.tar").unlink()
    (folder / "classes.json").write_text("{}")
    flipped = bytearray(whole["train-000001.tar"])
    flipped[600] ^= 1
    (folder / "train-000001.tar").write_bytes(flipped)
    assert faults_of(job) == {
        "missing_shard": ["webdataset/train-000000.tar"],
        "wrong_shard": ["webdataset/classes.json", "webdataset/train-000001.tar"],
    }
    run_packing(job)
    assert shards_of(job) == whole
    (folder / "index.json").write_text("[]")
    assert list(faults_of(job)) == ["unreadable_index"]


def test_an_image_that_is_not_as_recorded_gets_into_no_shard(job):
    image = Path(job.output, "images", "val", "1", "p3.png")
    whole = image.read_bytes()
    image.write_bytes(whole[:-1])
    with pytest.raises(
        PackingError, match=r"p3\.png: is not the image that was recorded; no index"
    ):
        run_packing(job)
    image.unlink()
    with pytest.raises(PackingError, match=r"^webdataset: .*p3\.png: does not exist; no index"):
        run_packing(job)
    image.write_bytes(whole)
    assert run_packing(job)["samples"] == 12


def test_shards_on_s3(job, s3):
    options, bucket = s3
    far = replace(job, output=f"s3://{bucket}/out", storage_options=options, format="parquet")
    for path in Path(job.output).rglob("*.*"):
        uri = f"{far.output}/{path.relative_to(job.output)}"
        files.write_bytes(uri, path.read_bytes(), options)
    assert run_packing(far)["samples"] == 12
    assert faults_of(far) == {}
    run_packing(replace(job, format="parquet"))
    for name, data in shards_of(replace(job, format="parquet")).items():
        assert files.read_bytes(f"{far.output}/parquet/{name}", options) == data
    shard = next(iter(packing.read_index(f"{far.output}/parquet", options).files()))
    files.delete(f"{far.output}/parquet/{shard}", options)
    assert faults_of(far) == {"missing_shard": [f"parquet/{shard}"]}
