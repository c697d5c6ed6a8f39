"""One job's output, packed on Ray and loaded by the libraries that users have."""

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported
import datasets
import torchvision
import webdataset

from pipeline.data import packing, records, storage
from pipeline.engine import pack as pack_module
from pipeline.engine.audit_shards import compare_listings
from pipeline.engine.job import run_job
from pipeline.engine.pack import PackError, pack
from pipeline.settings import JobSettings, StyleSettings, replace
from tests.conftest import image_bytes, write_parquet
from tests.engine.test_audit import drop_record, faults_of

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"
SECRET = "MARKEDSECRET"
TRAIN = ["a.0", "a.1", "a.2", "w0", "w1"]


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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
def finished(tmp_path_factory, weights_file):
    """A job with webdataset shards, what it said, and its summary; nobody changes its output."""
    base = tmp_path_factory.mktemp("formats")
    (base / "c.png").write_bytes(image_bytes(0, 64, 64))
    (base / "s.png").write_bytes(image_bytes(9, 64, 64))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=base)
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        style = StyleSettings(weights=str(weights_file), image_size=64, iterations=3, scales=1)
        job = JobSettings(
            manifest=write_parquet(base / "m.parquet", rows_of_manifest(server.server_port)),
            output=str(base / "out"), allow_schemes=("http",), embed_metadata=True,
            format="webdataset", shard_size=0.02,
        )  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()) as said:
            summary = run_job(style, job)
        server.shutdown()
    return job, summary, said.getvalue()


@pytest.fixture
def copy(finished, tmp_path) -> JobSettings:
    job = replace(finished[0], output=str(tmp_path / "out"))
    shutil.copytree(finished[0].output, job.output)
    return job


def shards_of(job) -> dict[str, bytes]:
    folder = Path(job.output, job.format)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.*")
        if path.suffix in (".tar", ".parquet")
    }


def test_the_job_made_all_it_could(finished):
    job, summary, said = finished
    assert (summary["ok"], summary["error"]) == (8, 2)
    assert summary["lost_classes"] == ["train/newt", "val/emu"]
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "no image was made of class train/newt, val/emu: torchvision's ImageFolder" in warning
    index = packing.read_index(f"{job.output}/webdataset", {})
    assert summary["packed"]["samples"] == 8
    assert summary["packed"]["shards"] == len(index.shards) > 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_webdataset_loads_the_tars(finished, split):
    job, _, _ = finished
    index = packing.read_index(f"{job.output}/webdataset", {})
    mine = [shard for shard in index.shards if shard.split == split]
    assert [shard.name for shard in mine] == [f"{split}-{i:06d}.tar" for i in range(len(mine))]
    urls = f"{job.output}/webdataset/{split}-{{000000..{len(mine) - 1:06d}}}.tar"
    data = webdataset.WebDataset(urls, shardshuffle=False).decode("pil")
    samples = list(data)
    assert len(samples) == {"train": 5, "val": 3}[split] == sum(shard.samples for shard in mine)
    classes = json.loads(Path(job.output, "webdataset", "classes.json").read_text())
    assert classes == {"cat": 0, "emu": 1, "newt": 2, "wolf": 3}
    for sample in samples:
        assert sample.keys() == {"__key__", "__url__", "__local_path__", "cls", "json", "png"}
        assert sample["png"].size == (64, 64)
        assert sample["cls"] == classes[sample["json"]["label"]]
    found = {sample["json"]["pair_id"]: sample["__key__"] for sample in samples}
    assert split == "val" or sorted(found) == TRAIN
    assert split == "train" or found["w.v"] == "w%2Ev"


def test_image_folders_load(finished, tmp_path):
    job, _, _ = finished
    for split, count in {"train": 5, "val": 3}.items():
        data = torchvision.datasets.ImageFolder(f"{job.output}/images/{split}")
        assert len(data) == count
        assert data.classes == ["cat", "wolf"]
    data = datasets.load_dataset(
        "imagefolder", data_dir=f"{job.output}/images", cache_dir=str(tmp_path)
    )
    assert {split: len(rows) for split, rows in data.items()} == {"train": 5, "validation": 3}
    row = next(row for row in data["train"] if row["pair_id"] == "w1")
    assert (row["label"], row["image"].size) == ("wolf", (64, 64))


@pytest.fixture(scope="module")
def parquet(finished) -> JobSettings:
    """The same output with Parquet shards as well, by the same job once more."""
    job = replace(finished[0], format="parquet")
    summary = run_job(
        StyleSettings(
            weights=str(Path(job.output).parents[1]), image_size=64, iterations=3, scales=1
        ),
        job,
    )
    assert summary["last_run"]["pairs"] == 0
    return job
