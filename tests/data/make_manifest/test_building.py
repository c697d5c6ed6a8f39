"""Which pairs a manifest gets: functions of names, whatever the order and the place."""

import json
import random
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import codec
from pipeline.data.make_manifest import pairing, parts, sampling
from pipeline.data.make_manifest.building import build
from pipeline.data.make_manifest.built import BuildError
from pipeline.data.make_manifest.labels import Labels, LabelsError
from pipeline.data.make_manifest.sources import images
from pipeline.data.manifest.manifest import INCOMPLETE, ManifestError, open_manifest
from pipeline.data.names import check_name
from pipeline.data.storage import files, listing, uris
from pipeline.settings import ManifestSettings, SettingError, replace

examples_tried = settings(max_examples=100)

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
keys = st.lists(names, min_size=1, max_size=30, unique=True)


@examples_tried
@given(st.integers(0, 2**63 - 1), keys, keys, st.data())
def test_a_choice_depends_on_names_alone(seed, contents, styles, data):
    count = data.draw(st.integers(1, len(styles)))

    def choices(contents, styles, count):
        chosen = sampling.choose(seed, contents, sampling.hash_keys(styles), count)
        return {
            content: [styles[index] for index in row]
            for content, row in zip(contents, chosen.tolist(), strict=True)
        }

    found = choices(contents, styles, count)
    assert all(len(set(row)) == count for row in found.values())  # no style twice
    shuffled = data.draw(st.permutations(contents)), data.draw(st.permutations(styles))
    assert choices(*shuffled, count) == found
    some = data.draw(st.lists(st.sampled_from(contents), min_size=1, unique=True))
    fewer = data.draw(st.integers(1, count))
    assert choices(some, styles, fewer) == {content: found[content][:fewer] for content in some}
    if count < len(styles):  # a style that nobody has may go
        gone = data.draw(st.sampled_from(styles))
        left = [style for style in styles if style != gone]
        kept = {content: row for content, row in found.items() if gone not in row}
        again = choices(contents, left, count)
        assert {content: again[content] for content in kept} == kept


def test_many_styles_are_picked_as_few_are(monkeypatch):
    hashes = sampling.hash_keys(list(map(str, range(50))))
    one_by_one = sampling.choose(0, ["a", "b"], hashes, 20)
    monkeypatch.setattr(sampling, "FEW", 0)
    assert (sampling.choose(0, ["a", "b"], hashes, 20) == one_by_one).all()


def test_styles_are_drawn_evenly():
    contents = [f"train/n{index % 7}/{index}.JPEG" for index in range(30_000)]
    styles = [f"style-{index}.png" for index in range(30)]
    hashes = sampling.hash_keys(styles)
    chosen = sampling.choose(3, contents, hashes, 2)
    expected = len(contents) / len(styles)
    for replica in (0, 1):  # chi square with 29 degrees of freedom: 58 is its 99.9th percentile
        counts = np.bincount(chosen[:, replica], minlength=len(styles))
        assert ((counts - expected) ** 2 / expected).sum() < 58
    pairs = Counter(map(tuple, chosen.tolist()))
    cells, expected = 30 * 29, len(contents) / (30 * 29)
    square = sum((count - expected) ** 2 / expected for count in pairs.values())
    assert square + (cells - len(pairs)) * expected < 1000  # 869 degrees of freedom: 1001
    other = sampling.choose(4, contents, hashes, 2)
    assert abs((other == chosen).mean() - 1 / len(styles)) < 0.005


@examples_tried
@given(keys, keys)
def test_ids_are_safe_and_the_pairs_own(contents, styles):
    ids = {sampling.pair_id(content, style) for content in contents for style in styles}
    assert len({name.casefold() for name in ids}) == len(contents) * len(styles)
    for name in ids:
        check_name("pair_id", name)
        assert len(name.encode()) <= 200
        assert "." not in name  # a sample of webdataset ends its name at the first


def test_a_long_name_is_cut_between_whole_letters():
    for letter in ("कि", "e\u0301\u0323", "猫", "x"):  # some have marks of their own
        for lead in ("", "a", "ab"):
            first, *_ = sampling.pair_id(f"{lead}{letter * 60}.png", "s.png").split("--")
            whole = unicodedata.normalize("NFC", lead + letter * 60)
            again = unicodedata.normalize("NFC", letter)
            assert whole.startswith(first)
            assert (first.removeprefix(lead) + again).replace(again, "") == ""
            assert 50 < len(first.encode()) <= 66


def test_ids_and_choices_stay_as_they_are_for_ever():
    """What users have made must be found again: with another name, jobs refuse their outputs."""
    name = sampling.pair_id("train/cats/tabby cat.v2.jpg", "van gogh/starry_night.png")
    assert name == "tabby-cat-v2--starry_night--821e435d94e8018b"
    labelled = sampling.pair_id("train/cats/tabby cat.v2.jpg", "van gogh/starry_night.png", "cats")
    assert labelled == f"cats--{name}"
    hashes = sampling.hash_keys([f"{index}.png" for index in range(100)])
    assert sampling.choose(0, ["a.jpg", "b.jpg"], hashes, 3).tolist() == [
        [32, 96, 56],
        [19, 58, 41],
    ]


def make(tree, file_names):
    for name, text in file_names.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def folders(tmp_path):
    contents = [
        f"{split}/{label}/{i}.jpg" for split in ("train", "val") for label in "ab" for i in range(5)
    ]
    make(
        tmp_path / "photos", dict.fromkeys([*contents, "train/a/notes.txt", ".x.jpg", "README"], "")
    )
    make(tmp_path / "art", dict.fromkeys([f"{i}.png" for i in range(6)], ""))
    return ManifestSettings(
        content=str(tmp_path / "photos"),
        style=str(tmp_path / "art"),
        output=str(tmp_path / "pairs"),
        styles_per_content=2,
        rows_per_file=7,
    )


def rows_of(settings):
    return pq.read_table(settings.output).to_pylist()


def by_id(rows):
    return {row["pair_id"]: row for row in rows}


def test_a_manifest_is_cut_into_files_and_counted(folders):
    settings = replace(folders, label_from="parent", split_from="parent")
    said = []
    built = build(settings, lambda built: said.append((built.files, built.pairs)))
    assert said == [(1, 7), (2, 14), (3, 21), (4, 28), (5, 35), (6, 40)]
    assert (built.contents, built.styles, built.pairs, built.files) == (20, 6, 40, 6)
    assert built.labels == {"a": 10, "b": 10}
    assert built.splits == {"train": 10, "val": 10}
    assert built.skipped == {".txt": 1, "hidden": 1, "others": 1}
    file_names = sorted(file.key for file in listing.iterate_files(settings.output, {}))
    assert file_names == ["_manifest.json", *(f"part-{index:05d}.parquet" for index in range(6))]
    rows = rows_of(settings)
    assert len(by_id(rows)) == 40
    for row in rows:
        split, label, name = row["content_uri"].split("/")[-3:]
        assert (row["split"], row["label"]) == (split, label)
        assert row["pair_id"].startswith(f"{label}--{name.partition('.')[0]}--")
    recipe = json.loads(files.read_bytes(uris.join(settings.output, parts.RECIPE), {}))
    assert (recipe["styles_per_content"], recipe["pairs"]) == (2, 40)


def test_order_and_place_change_nothing(folders, tmp_path, monkeypatch):
    build(folders)
    first = by_id(rows_of(folders))
    (tmp_path / "elsewhere").mkdir()
    moved = replace(
        folders,
        content=str((tmp_path / "photos").rename(tmp_path / "elsewhere" / "photos")),
        output=str(tmp_path / "again"),
    )
    listed = images.iterate_files

    def shuffled(uri, options):
        file_names = list(listed(uri, options))
        random.Random(5).shuffle(file_names)
        return iter(file_names)

    monkeypatch.setattr(images, "iterate_files", shuffled)
    build(moved)
    second = by_id(rows_of(moved))
    assert second.keys() == first.keys()
    assert all(second[name]["style_uri"] == row["style_uri"] for name, row in first.items())
    assert list(second) != list(first)
    build(replace(moved, seed=1, overwrite=True))
    assert by_id(rows_of(moved)).keys() != first.keys()


def test_a_manifest_can_grow_without_losing_pairs(folders):
    def ids(**changes):
        build(replace(folders, overwrite=True, **changes))
        return by_id(rows_of(folders)).keys()

    few = ids(limit=3)
    assert len(few) == 6
    more = ids(limit=8)
    assert few < more
    assert more < ids(limit=8, styles_per_content=4) < ids(styles_per_content=4)
    everything = ids(mode="cross", styles_per_content=None)
    assert len(everything) == 120
    assert ids() < everything


def test_contents_are_never_held(folders, monkeypatch):
    """The listing goes on only as rows are asked for."""
    listed = []

    def endless(uri, options):
        if uri == folders.style:
            return iter([listing.File("/s.png", "s.png")])
        return (listed.append(i) or listing.File(f"/{i}.jpg", f"{i}.jpg") for i in range(10**9))

    class EnoughError(Exception):
        pass

    def said(built):
        assert len(listed) <= built.pairs + 2**16
        if built.files == 3:
            raise EnoughError

    monkeypatch.setattr(images, "iterate_files", endless)
    monkeypatch.setattr(pairing, "DRAWS", 100)
    with pytest.raises(EnoughError):
        build(replace(folders, styles_per_content=1), said)


def test_labels_from_a_csv_file(folders, tmp_path):
    rows = ("0.jpg,zero,val,", "./train/a/1.jpg,one,,", "no.jpg,,,")
    make(tmp_path, {"l.csv": "\n".join(["\ufefffile_name,label,split,x", *rows])})
    settings = replace(folders, label_from="csv", split_from="csv", labels=str(tmp_path / "l.csv"))
    built = build(settings)
    assert built.labels == {"zero": 4, "one": 1, None: 15}
    assert built.splits == {"val": 4, None: 16}
    assert built.unmet_labels == 1
    places = {row["content_uri"].split("photos/")[1]: row for row in rows_of(settings)}
    assert (places["val/b/0.jpg"]["label"], places["val/b/0.jpg"]["split"]) == ("zero", "val")
    assert (places["train/a/1.jpg"]["label"], places["train/a/1.jpg"]["split"]) == ("one", None)
    assert places["train/b/1.jpg"]["label"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.jpg,x\n", "the header lacks file_name; it has image, label"),
        ("file_name,label\n", "has no rows"),
        ("", "it has nothing"),
        ("file_name,label\na.jpg,x\nb.jpg,y\na.jpg,z\n", "rows 1 and 3 disagree about"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(LabelsError, match=message):
        Labels(str(tmp_path / "l.csv"), ("label",), {})
    with pytest.raises(LabelsError, match="does not exist"):
        Labels(str(tmp_path / "none.csv"), ("label",), {})


def test_a_label_that_cannot_be_a_folder_leaves_nothing(folders, tmp_path):
    make(tmp_path / "photos", {"train/a&b/0.jpg": ""})
    with pytest.raises(BuildError, match=r"a&b/0\.jpg: label: 'a&b' cannot be a file name"):
        build(replace(folders, label_from="parent", rows_per_file=1))
    assert list(listing.iterate_files(folders.output, {})) == []


def test_a_class_folder_of_any_script_is_a_label(folders, tmp_path):
    make(tmp_path / "photos", {"train/हिन्दी/0.jpg": ""})
    assert build(replace(folders, label_from="parent")).labels["हिन्दी"] == 1


def test_only_a_manifest_is_overwritten(folders, tmp_path):
    build(folders)
    with pytest.raises(BuildError, match="--overwrite replaces it"):
        build(folders)
    build(replace(folders, overwrite=True, rows_per_file=40))
    assert len(rows_of(folders)) == 40
    make(tmp_path / "pairs", {"thesis.docx": "ten years"})
    with pytest.raises(BuildError, match=r"holds 'thesis\.docx', which make_manifest"):
        build(replace(folders, overwrite=True))
    with pytest.raises(BuildError, match="is a file; give a folder"):
        build(replace(folders, output=str(tmp_path / "pairs" / "thesis.docx"), overwrite=True))
    assert (tmp_path / "pairs" / "thesis.docx").read_text() == "ten years"
    assert pq.read_table(tmp_path / "pairs" / "part-00000.parquet").num_rows == 40


def test_a_half_written_manifest_looks_like_none(folders, tmp_path):
    seen = []

    def said(built):
        with pytest.raises(ManifestError, match="is not complete"):
            open_manifest(folders.output, {})
        with pytest.raises(pa.ArrowInvalid, match="incomplete"):  # nor do other readers take it
            pq.read_table(folders.output)
        with pytest.raises(BuildError, match="or part of one"):
            build(folders)
        seen.append(built.files)
        if built.files == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folders, said)
    assert seen == [1, 2, 3]
    assert list(listing.iterate_files(folders.output, {})) == []
    make(tmp_path / "pairs", {INCOMPLETE: "", "part-00000.parquet": "", ".p.writing": ""})  # killed
    build(replace(folders, overwrite=True))
    assert open_manifest(folders.output, {}).rows == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"styles_per_content": 7}, "styles_per_content: 7, but .* holds 6 styles"),
        ({"content": "PHOTOS/*.png"}, "holds no image; image files end in"),
        ({"content": "PHOTOS/train/a/*.txt"}, r"holds no image \(skipped: 1 .txt\)"),
        ({"style": "PHOTOS/none"}, "there is no such file or folder"),
    ],
)
def test_nothing_to_pair(folders, changes, message):
    photos = folders.content
    changes = {
        name: value.replace("PHOTOS", photos) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises(BuildError, match=message):
        build(replace(folders, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": ""}, "style: is missing"),
        ({"mode": "cross"}, "styles_per_content: only for mode sample"),
        ({"label_from": "csv"}, "labels: is missing"),
        ({"labels": "x.csv"}, "labels: is not used"),
        ({"limit": 0}, "limit: 0 is out of range"),
    ],
)
def test_settings_that_do_not_fit(folders, changes, message):
    with pytest.raises(SettingError, match=message):
        replace(folders, **changes)


def test_the_endings_are_those_of_the_formats_that_are_opened():
    kinds = {*codec.FORMATS, "MPO"}
    known = {ending for ending, kind in Image.registered_extensions().items() if kind in kinds}
    assert known - set(images.ENDINGS) == set()
    assert {ending for ending in images.ENDINGS if "avif" not in ending} <= known
