"""The card of a folder of shards."""

import datetime

import pytest
import yaml

from pipeline.data.manifest.lineage import Lineage
from pipeline.data.output import cards, clearing, dividing, packing, records
from tests.data.output.test_shards import record, write_records


@pytest.fixture
def output(tmp_path):
    """Three ok records, two splits and an original, and a ``job.json`` that tells licences."""
    lineage = Lineage(
        {"dog": 0, "cat": 1}, ("a <b>dog</b>", "cat"), ("license",),
        {"content": {"license": "cc-by-4.0", "license_name": "x|y"}},
    )  # fmt: skip
    job = {
        "title": "Pets: [x](javascript:1)", "settings": {"weights": "compact", "image_size": 64},
        "versions": {"neural-style-pipeline": "9.9"}, "data_set": lineage.as_json(),
    }  # fmt: skip
    records.write_json(f"{tmp_path}/job.json", job, {})
    rows = [
        record("a", split="train", file_name="images/train/cat/a.png"),
        record("b", split="train", style_uri=[]),
        record("c", split="validation"),
    ]
    write_records(str(tmp_path), rows)
    return str(tmp_path)


def written(output, form="parquet"):
    division = dividing.divide(output, form, 1000, {})
    return cards.write(division, output, {})


def test_a_card_tells_counts_classes_and_licences(output, tmp_path):
    assert written(output)
    text = (tmp_path / "parquet" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {
        "pretty_name": "Pets: [x](javascript:1)",
        "license": "cc-by-4.0",
        "license_name": "x|y",
        "task_categories": ["image-classification"],
        "tags": ["style-transfer", "data-augmentation"],
    }
    assert "# Pets:  x (javascript:1)\n" in text
    assert (
        "2 stylised images and 1 original, made with neural-style-pipeline 9.9 (`weights` " in text
    )
    assert "| train | 2 |\n| validation | 1 |\n" in text
    assert "2 classes, numbered as in the source: a &lt;b&gt;dog&lt;/b&gt;, cat." in text
    assert (
        "- The card of the content images says: `license`: cc-by-4.0, `license_name`: x y." in text
    )
    assert "- No card of the style images names a licence." in text
    assert "| none given | 3 |" in text
    assert str(datetime.date.today().year) not in text, "the same records give the same bytes"


def test_the_licences_of_contents_and_styles_are_both_in_the_head(output):
    def licence(**licences):
        told = {place: {"license": name} for place, name in licences.items()}
        job = {"data_set": Lineage(licences=told).as_json()}
        text = cards.card(dividing.divide(output, "parquet", 1000, {}), job).decode()
        return yaml.safe_load(text.split("---\n")[1]).get("license")

    assert licence() is None
    assert licence(content="mit", style="mit") == "mit"
    assert licence(content="mit", style=["cc0-1.0", "mit"]) == ["mit", "cc0-1.0"]
    assert licence(style="cc0-1.0") == "cc0-1.0"


def test_a_card_that_was_edited_stays(output, tmp_path):
    assert written(output)
    path = tmp_path / "parquet" / "README.md"
    path.write_text(path.read_text().replace("| train | 2 |", "| train | two |"))
    edited = path.read_text()
    assert not written(output)
    assert path.read_text() == edited
    packing.write_index(f"{output}/parquet", packing.Index("parquet", 1), {})
    clearing.clear(output, {})
    assert path.read_text() == edited
    packing.refuse_foreign(output, "parquet", {})  # a card alone is in nobody's way


def test_a_card_goes_with_its_shards(output, tmp_path):
    written(output)
    packing.write_index(f"{output}/parquet", packing.Index("parquet", 1), {})
    clearing.clear(output, {})
    assert not (tmp_path / "parquet").exists()


def test_a_card_without_a_job_file(output, tmp_path):
    (tmp_path / "job.json").write_text("[")
    assert written(output, "webdataset")
    text = (tmp_path / "webdataset" / "README.md").read_text()
    assert "# Stylised images\n" in text
    assert "1 class, numbered in the order of their names: cat." in text
