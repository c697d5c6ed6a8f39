"""Which contents are taken and which styles they get: classes, shares, weights."""

import json
import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data.make_manifest import sampling
from pipeline.data.make_manifest.building import build
from pipeline.data.make_manifest.built import BuildError
from pipeline.data.make_manifest.classes import Classes, read_names
from pipeline.data.make_manifest.sources import images
from pipeline.data.make_manifest.sources.base import SourceError
from pipeline.data.names import is_name
from pipeline.settings import ManifestSettings, replace


@pytest.fixture
def folders(tmp_path):
    """Forty contents in each of three classes, and styles by class and by none."""
    for label in ("cat", "dog", "owl"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for index in range(40):
            (tmp_path / "photos" / label / f"{index}.jpg").write_bytes(b"")
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "e.png"):
        (tmp_path / "art" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "art" / name).write_bytes(b"")
    return ManifestSettings(
        content=str(tmp_path / "photos"),
        style=str(tmp_path / "art"),
        output=str(tmp_path / "pairs"),
        label_from="parent",
    )


def rows_of(settings, **changes):
    changed = replace(settings, overwrite=True, **changes)
    built = build(changed)
    rows = pq.read_table(changed.output).to_pylist()
    return {row["pair_id"]: row for row in rows}, built


EVERYTHING = {
    "classes": ("cat", "dog"),
    "per_class": 20,
    "val_fraction": 0.3,
    "style_probability": 0.5,
    "include_originals": True,
    "style_per_class": True,
    "style_weights": '{"a.png": 5}',
}


def test_neither_order_nor_place_changes_anything(folders, monkeypatch):
    first, _ = rows_of(folders, **EVERYTHING)
    listed = images.iterate_files

    def shuffled(uri, options):
        found = list(listed(uri, options))
        random.Random(3).shuffle(found)
        return iter(found)

    monkeypatch.setattr(images, "iterate_files", shuffled)
    second, _ = rows_of(folders, **EVERYTHING)
    assert second == first
    other, _ = rows_of(folders, **EVERYTHING, seed=1)
    assert other != first


def test_classes_and_how_many_of_each(folders):
    rows, built = rows_of(folders, classes=("cat", "owl"), per_class=15)
    assert built.labels == {"cat": 15, "owl": 15}
    assert built.skipped == {"of other classes": 40}
    more, _ = rows_of(folders, per_class=25)
    assert rows.keys() < more.keys()
    with pytest.raises(BuildError, match="no content image has the label 'cow'; leave it out"):
        rows_of(folders, classes=("cat", "cow"))
    for name, value in (("classes", ("cat",)), ("per_class", 3), ("style_per_class", True)):
        with pytest.raises(BuildError, match=f"{name}: the content images have no labels"):
            rows_of(folders, label_from="none", **{name: value})


def test_class_names_give_ids_to_class_folders(folders, tmp_path):
    (tmp_path / "classes.txt").write_text("owl\ncat\ndog\n")
    rows, _ = rows_of(folders, class_names=str(tmp_path / "classes.txt"))
    found = {(row["label"], row["label_id"]) for row in rows.values()}
    assert found == {("owl", 0), ("cat", 1), ("dog", 2)}
    with pytest.raises(
        BuildError, match=r"classes: 'dgo' is not in the class list; it has 3: owl, cat, dog$"
    ):
        rows_of(folders, class_names=str(tmp_path / "classes.txt"), classes=("dgo",))
    with pytest.raises(BuildError, match=r"'cats' is not in the class list; did you mean cat\?"):
        rows_of(folders, class_names=str(tmp_path / "classes.txt"), classes=("cats",))
    rows, _ = rows_of(folders)
    assert "label_id" not in next(iter(rows.values()))


def test_a_share_becomes_val(folders, tmp_path):
    rows, built = rows_of(folders, val_fraction=0.25)
    assert 15 <= built.splits["val"] <= 45
    assert built.splits["train"] + built.splits["val"] == 120
    more, _ = rows_of(folders, val_fraction=0.5)
    val = {name for name, row in rows.items() if row["split"] == "val"}
    assert val < {name for name, row in more.items() if row["split"] == "val"}
    (tmp_path / "split.csv").write_text("file_name,split\n0.jpg,test\n1.jpg,train\n")
    labels = {"labels": str(tmp_path / "split.csv"), "split_from": "csv"}
    _, built = rows_of(folders, val_fraction=0.9, **labels)
    assert built.splits["test"] == 3
    assert built.splits["val"] > 80


def test_some_contents_stay_as_they_are(folders):
    whole, _ = rows_of(folders)
    rows, built = rows_of(folders, style_probability=0.5)
    assert built.left_out == 120 - len(rows)
    assert 40 < len(rows) < 80
    assert rows.items() < whole.items()
    both, built = rows_of(folders, style_probability=0.5, include_originals=True)
    assert (built.left_out, built.originals, built.contents) == (0, 120 - len(rows), 120)
    originals = [row for row in both.values() if row["original"]]
    assert len(originals) == built.originals
    assert all(row["style_uri"] is None for row in originals)
    assert {row["content_uri"] for row in both.values()} == {
        row["content_uri"] for row in whole.values()
    }
    beside, built = rows_of(folders, include_originals=True)
    assert (built.pairs, built.originals, built.contents) == (240, 120, 120)
    assert whole.keys() < beside.keys()
    with pytest.raises(BuildError, match="leaves all 120 content images as they are"):
        rows_of(folders, style_probability=1e-9)


def test_styles_of_the_contents_own_class(folders, tmp_path):
    rows, built = rows_of(folders, style_per_class=True)
    assert built.skipped == {"without styles for the class": 40}
    assert len(rows) == 80
    for row in rows.values():
        assert f"/art/{row['label']}/" in row["style_uri"]
    rows, _ = rows_of(folders, style_per_class=True, mode="cross")
    assert len(rows) == 160
    with pytest.raises(BuildError, match=r"styles_per_content: 3, but class 'cat' in .* has 2"):
        rows_of(folders, style_per_class=True, styles_per_content=3)
    with pytest.raises(BuildError, match="are in no class folders; put them into STYLE/LABEL/"):
        rows_of(folders, style_per_class=True, style=f"{folders.style}/cat")


def test_equal_weights_draw_as_none_do():
    contents = [f"{index}.jpg" for index in range(300)]
    hashes = sampling.hash_keys([f"{index}.png" for index in range(40)])
    for count in (1, 5, 40):
        plain = sampling.choose(7, contents, hashes, count)
        assert (sampling.choose(7, contents, hashes, count, np.full(40, 3.0)) == plain).all()


def test_styles_are_drawn_by_their_weights():
    contents = [f"{index}.jpg" for index in range(20_000)]
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    hashes = sampling.hash_keys(["a", "b", "c", "d"])
    chosen = sampling.choose(0, contents, hashes, 2, weights)
    counts = np.bincount(chosen[:, 0], minlength=4)
    assert np.abs(counts / len(contents) - weights / 10).max() < 0.015
    assert (chosen[:, 0] != chosen[:, 1]).all()
    # Of the others, each has its share again: 3/6 of those whose first was the heaviest.
    second = np.bincount(chosen[chosen[:, 0] == 3, 1], minlength=4)
    assert abs(second[2] / second.sum() - 0.5) < 0.02


def test_weights_in_files(folders, tmp_path):
    expected = None
    (tmp_path / "w.csv").write_text("file_name;weight\na.png;0\ncat/b.png;2.5\n./e.png;0\n")
    (tmp_path / "w.json").write_text('{"a.png": 0, "b.png": 2.5, "e.png": 0}')
    for given in (str(tmp_path / "w.csv"), str(tmp_path / "w.json"), '{"a.png":0,"b.png":2.5,'
                  '"e.png":0}'):  # fmt: skip
        rows, _ = rows_of(folders, style_weights=given)
        expected = expected or rows
        assert rows == expected
    drawn = Counter(row["style_uri"].rpartition("/")[2] for row in expected.values())
    assert drawn.keys() == {"b.png", "c.png", "d.png"}
    assert drawn["b.png"] > drawn["c.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x.png": 1}', r"'x\.png' is no style in "),
        ('{"a.png": -1}', r"'a\.png' has the weight -1; range: 0, or 1e-06 to 1e\+06"),
        ('{"a.png": "much"}', r"'a\.png' has the weight 'much'"),
        ("{a", "style_weights: is no JSON such as"),
        ("{}", "holds no weights by name"),
        ("none.csv", r"style_weights .*none\.csv: does not exist"),
        ('{"a.png":0,"b.png":0,"c.png":0,"d.png":0,"e.png":0}', "all styles in .* weight 0"),
    ],
)
def test_weights_that_cannot_be_used(folders, text, message):
    with pytest.raises(BuildError, match=message):
        rows_of(folders, style_weights=text)


def test_class_names_become_folder_names_that_differ():
    names = ["tench, Tinca tinca", "T-shirt/top", "T-shirt:top", "jack-o'-lantern", "??", "a" * 300]
    classes = Classes(names)
    assert classes.names == tuple(names)
    assert all(map(is_name, classes.labels))
    assert len({label.casefold() for label in classes.labels}) == len(names)
    assert classes.labels[:4] == [
        *("tench, Tinca tinca", "T-shirt-top", "T-shirt-top-2", "jack-o-lantern"),
    ]
    for index, name in enumerate(names):
        assert classes.find(name, None) == index == classes.find(None, index)
        assert classes.find(str(index), None) == index
    assert classes.find("bird", 0) is classes.find(None, 6) is classes.find(None, -1) is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("\ufeffb\r\na\r\n\r\n", ["b", "a"]),
        ('["b", "a"]', ["b", "a"]),
        (json.dumps({"a": 1, "b": 0}), ["b", "a"]),
        ('{"a": 1, "b": 2}', "ids must be 0, 1, 2 and so on"),
        ("[", "begins as JSON, and is none"),
        ("a\na\n", "'a' is there twice"),
        ("\n", "it is empty"),
    ],
)
def test_files_of_class_names(tmp_path, text, names):
    path = tmp_path / "classes"
    path.write_text(text, encoding="utf-8")
    if isinstance(names, list):
        assert read_names(str(path), {}) == names
    else:
        with pytest.raises(SourceError, match=names):
            read_names(str(path), {})
