"""Outputs whose classes and names hold words of splits, loaded as docs/formats.md says."""

import io
import itertools
import os
import re
from pathlib import Path

import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # read when it is imported
import datasets
import torchvision
import webdataset

from pipeline.data.ids import hash_ids
from pipeline.data.manifest.lineage import Lineage
from pipeline.data.names import SPLIT_WORD
from pipeline.data.output import closing, shards
from pipeline.data.storage import files
from tests.data.output.test_shards import record, write_records

CLASSES = ("train", "test_tube", "val_day", "dev board", "cat")
IDS = ("photo-of-a-train", "dev board 1", "eval.2", "testing", "sky")
DOCS = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()


def call_in_docs(splits) -> str:
    """The line that loads an output with splits, or one without."""
    calls = re.findall(r'^.*load_dataset\(\n? *"imagefolder".*$', DOCS, re.MULTILINE)
    (found,) = [call for call in calls if ("splits" in call) is bool(splits)]
    return found


@pytest.fixture(params=[(), ("train", "val"), ("train", "test_a")], ids=str)
def made(request, tmp_path):
    """An output with a picture of each class and id in each split: (its folder, its rows)."""
    rows = []
    places = itertools.product(request.param or (None,), CLASSES, IDS)
    for number, (split, label, name) in enumerate(places):
        pair_id = f"{name} {number}"
        folder = "/".join(part for part in ("images", split, label) if part)
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, "PNG")
        data = buffer.getvalue()
        file_name = f"{folder}/{pair_id}.png"
        files.write_bytes(f"{tmp_path}/out/{file_name}", data, {})
        rows.append(record(pair_id, label=label, split=split, file_name=file_name, bytes=len(data)))
    write_records(f"{tmp_path}/out", rows)
    closing.close(f"{tmp_path}/out", {}, hash_ids([]))
    return tmp_path, rows


def red(image) -> int:
    """The number of a row, which its picture has for its colour."""
    return image.convert("RGB").getpixel((0, 0))[0]


def of_split(rows, split):
    return {n: row["label"] for n, row in enumerate(rows) if row["split"] == split}


def test_datasets_loses_and_moves_no_picture(made, monkeypatch):
    folder, rows = made
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    names = sorted({row["split"] for row in rows if row["split"]})
    splits = {"val": "validation", "test_a": "test"}
    found = {
        "load_dataset": datasets.load_dataset,
        "splits": {splits.get(name, name): f"out/images/{name}/**" for name in names},
    }
    exec(call_in_docs(names).strip(), found)
    data = found["data"]
    assert set(data) == {splits.get(name, name) for name in names or ["train"]}
    for name in names or [None]:
        loaded = data[splits.get(name, name) or "train"]
        assert {red(row["image"]): row["label"] for row in loaded} == of_split(rows, name)
        for row in loaded:
            assert row["pair_id"] == rows[red(row["image"])]["pair_id"]
        assert len(loaded) == len(of_split(rows, name))


def test_a_word_that_datasets_takes_for_a_split_is_known():
    words = list(itertools.chain(*datasets.data_files.SPLIT_KEYWORDS.values()))
    assert {"train", "dev", "val", "test"} < set(words)
    for word in words:
        for name in (word, f"a {word}", f"{word}_1/a", f"x/{word}.b", f"photo-of-{word}1"):
            assert SPLIT_WORD.search(name), name
    for name in ("trainer/a", "protest", "Vale", "devil", "cat/sky", "tests"):
        assert not SPLIT_WORD.search(name), name


def test_torchvision_loses_and_moves_no_picture(made):
    folder, rows = made
    for split in {row["split"] for row in rows}:
        data = torchvision.datasets.ImageFolder(folder / "out" / "images" / (split or ""))
        assert data.classes == sorted(CLASSES)
        found = {red(image): data.classes[index] for image, index in data}
        assert found == of_split(rows, split)
        assert len(data) == len(found)


def test_shards_lose_and_move_no_picture(made):
    folder, rows = made
    classes = shards.columns_of(CLASSES, Lineage())
    for split in {row["split"] for row in rows}:
        mine = [row for row in rows if row["split"] == split]
        samples = [(row, (folder / "out" / row["file_name"]).read_bytes()) for row in mine]
        (folder / "some.tar").write_bytes(shards.write_tar(samples, classes))
        tar = webdataset.WebDataset(str(folder / "some.tar"), shardshuffle=False).decode("pil")
        loaded = list(tar.to_tuple("png", "cls", "json"))
        assert len(loaded) == len(mine)
        expected = of_split(rows, split)
        assert {red(image): sorted(CLASSES)[index] for image, index, _ in loaded} == expected
        assert {red(image): facts["label"] for image, _, facts in loaded} == expected
        place = folder / "parquet" / "data" / f"{split or 'train'}-00000-of-00001.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(shards.write_parquet(samples, classes))
    data = datasets.load_dataset(str(folder / "parquet"), cache_dir=str(folder / "cache"))
    for split in {row["split"] for row in rows}:
        loaded = data[split or "train"]
        name_of = loaded.features["label"].int2str
        found = {red(row["image"]): name_of(row["label"]) for row in loaded}
        assert found == of_split(rows, split)
        assert len(loaded) == len(found)
