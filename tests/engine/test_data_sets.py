"""Whole jobs over data sets as people have them: Hugging Face's Parquet, tars listed in a CSV."""

import io
import json
import tarfile
from collections import Counter

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import webdataset
import yaml
from PIL import Image

from pipeline.data.make_manifest.building import build
from pipeline.data.storage import file_parts
from pipeline.engine.audit.audit import run_audit
from pipeline.engine.job import run_job
from pipeline.settings import JobSettings, ManifestSettings, StyleSettings, replace
from tests import stand_in_hub
from tests.conftest import image_bytes
from tests.outputs import check_images, records_of

pytestmark = pytest.mark.usefixtures("local_ray")

NAMES = ["tench", "T-shirt/top", "ape", "cat"]
"""Names of classes, not in alphabetical order. One cannot be a folder's; the last has no image."""

TINY = StyleSettings(weights="compact", image_size=64, iterations=2, scales=1)


def test_a_job_over_a_hugging_face_folder_and_one_over_a_tar(tmp_path):
    features = datasets.Features(
        {
            "content_image": datasets.Image(),
            "style_image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {
        "content_image": [Image.open(io.BytesIO(image_bytes(seed, 64, 64))) for seed in range(2)],
        "style_image": [{"bytes": image_bytes(9, 64, 64), "path": None}] * 2,
        "label": [0, 1],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "data").mkdir()
    for index in range(2):
        name = f"train-{index:05d}-of-00002.parquet"
        whole.shard(2, index, contiguous=True).to_parquet(tmp_path / "data" / name)
    broken = {**columns, "content_image": [{"bytes": b"no image", "path": "x.png"}] * 2}
    one = datasets.Dataset.from_dict(broken, features=features).select([0])
    one.to_parquet(tmp_path / "data" / "x.parquet")

    output = tmp_path / "out"
    job = JobSettings(manifest=str(tmp_path / "data"), output=str(output), actors=1)
    summary = run_job(TINY, job)
    assert summary["ok"] == 2
    records = records_of(str(output))
    check_images(str(output), records)
    found = {row["content_uri"].rpartition("/")[2]: row for row in records.values()}
    assert len(found) == 3
    place = "#image=content_image&group=0&row=0"
    assert found[f"train-00001-of-00002.parquet{place}"]["label"] == "1"
    assert found[f"x.parquet{place}"]["error_class"] == "not_an_image"
    assert place in found[f"x.parquet{place}"]["error_message"]
    assert run_audit(job).faults == Counter()
    assert run_job(TINY, job)["ok"] == 2

    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("a.png", image_bytes(3, 64, 64)), ("s.png", image_bytes(4, 64, 64))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    content, style = file_parts.members_of_tar(str(tmp_path / "x.tar"), {})
    style_uri = file_parts.tar_part("x.tar", *style)
    lines = [
        "content_uri,style_uri,pair_id,iterations",
        f"{file_parts.tar_part('x.tar', *content)},{style_uri},whole,1",
        f"{file_parts.tar_part('x.tar', 'cut', content.offset, 10**6)},{style_uri},cut,",
        f",{style_uri},null,",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    output = tmp_path / "out2"
    job = JobSettings(manifest=str(tmp_path / "pairs.csv"), output=str(output), actors=1)
    run_job(TINY, job)
    found = records_of(str(output))
    assert found["whole"]["status"] == "ok"
    assert found["whole"]["evaluations"] == 1
    assert "the tar is cut off" in found["cut"]["error_message"]
    assert found["null"]["error_message"].startswith("manifest line 4: content_uri: is null")
    assert run_audit(job).faults == Counter()


def tint(image) -> int:
    """Which of the contents an image shows, at least if it is a copy."""
    return round(float(np.asarray(image.convert("RGB"), float)[..., 0].mean()) / 30)


@pytest.fixture
def hub_set(tmp_path):
    """A data set with a card, classes, licences and two splits, as ``push_to_hub`` lays it out."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=NAMES),
            "license": datasets.Value("string"),
        }
    )
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, first, count in (("train", 0, 4), ("validation", 4, 2)):
        numbers = range(first, first + count)
        columns = {
            "image": [Image.new("RGB", (64, 64), (30 * number, 90, 90)) for number in numbers],
            "label": [(2, 0, 1)[number % 3] for number in numbers],
            "license": [f"L{number % 2}" for number in numbers],
        }
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "set" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "s.png").write_bytes(image_bytes(9, 64, 64))
    return tmp_path


def test_from_a_hugging_face_set_to_one_and_to_the_hub(hub_set, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    theirs = datasets.load_dataset(f"{hub_set}/set", cache_dir=f"{hub_set}/c1")
    build(ManifestSettings(
        content=f"{hub_set}/set", style=f"{hub_set}/art", output=f"{hub_set}/pairs",
        include_originals=True,
    ))  # fmt: skip
    with stand_in_hub.running() as server:
        job = JobSettings(
            manifest=f"{hub_set}/pairs", output=f"{hub_set}/out", actors=1, format="parquet",
            push_to_hub="me/set",
            storage_options={"hf": {"endpoint": server.url, "token": stand_in_hub.TOKEN}},
        )  # fmt: skip
        summary = run_job(TINY, job)
        uploaded = server.files
    assert summary["ok"] == 12
    assert summary["pushed"]["uploaded"] == 3
    assert run_audit(job).faults == Counter()
    for name, data in uploaded.items():
        path = hub_set / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    ours = datasets.load_dataset(f"{hub_set}/copy", cache_dir=f"{hub_set}/c2")
    assert {split: len(rows) for split, rows in ours.items()} == {"train": 8, "validation": 4}
    for split, rows in ours.items():
        assert rows.features["label"] == theirs[split].features["label"]
        assert isinstance(rows.features["image"], datasets.Image)
        known = {tint(row["image"]): (row["label"], row["license"]) for row in theirs[split]}
        originals = [row for row in rows if not row["style_uri"]]
        assert {tint(row["image"]): (row["label"], row["license"]) for row in originals} == known
        labels = Counter(row["label"] for row in originals)
        assert Counter(row["label"] for row in rows if row["style_uri"]) == labels
    card = (hub_set / "copy" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "6 stylised images and 6 originals" in card
    assert "| L0 | 6 |" in card

    job = replace(job, format="webdataset", push_to_hub="")
    run_job(TINY, job)
    classes = json.loads((hub_set / "out" / "webdataset" / "classes.json").read_text())
    assert classes == {"tench": 0, "T-shirt-top": 1, "ape": 2, "cat": 3}
    urls = sorted(map(str, (hub_set / "out" / "webdataset").glob("*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    ids = {row["pair_id"]: row["label"] for rows in ours.values() for row in rows}
    assert {sample["json"]["pair_id"]: sample["cls"] for sample in samples} == ids
    assert {sample["json"]["license"] for sample in samples} == {"L0", "L1"}
    for split in ("train", "validation"):
        data = datasets.load_dataset(f"{hub_set}/out/webdataset", cache_dir=f"{hub_set}/c3")[split]
        assert {row["json"]["pair_id"]: row["cls"] for row in data}.items() <= ids.items()
    assert run_audit(job).faults == Counter()
    assert run_job(TINY, replace(job, format="parquet"))["packed"]["samples"] == 12
    assert stand_in_hub.TOKEN not in capsys.readouterr().err
    for path in (hub_set / "out").rglob("*"):
        assert not path.is_file() or stand_in_hub.TOKEN.encode() not in path.read_bytes(), path
