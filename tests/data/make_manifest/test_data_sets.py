"""Manifests of data sets as their own libraries write them: datasets and webdataset."""

import io
import json
import tarfile
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from pipeline.data.make_manifest import pairing
from pipeline.data.make_manifest.building import build
from pipeline.data.make_manifest.built import BuildError
from pipeline.data.make_manifest.sources.base import split_in
from pipeline.data.manifest import lineage, planning
from pipeline.data.manifest.manifest import open_manifest
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.output import shards as output_shards
from pipeline.data.storage import files, filesystems, uris
from pipeline.settings import ManifestSettings, SettingError, replace
from tests.conftest import image_bytes

NAMES = ["tench", "T - shirt / top", "ape"]
"""In no alphabetical order; the second cannot be a folder's name."""

LABELS = ["tench", "T - shirt - top", "ape"]


@pytest.fixture
def wanted(tmp_path):
    (tmp_path / "art").mkdir()
    for index in range(6):
        (tmp_path / "art" / f"{index}.png").write_bytes(b"")
    return ManifestSettings(
        content=str(tmp_path / "data"), style=str(tmp_path / "art"), output=str(tmp_path / "pairs")
    )


def picture(index):
    return image_bytes(index, 8, 9)


def rows_of(settings, **changes):
    """Build a manifest and return its rows by content, and the counts."""
    changed = replace(settings, overwrite=True, **changes)
    built = build(changed)
    return pq.read_table(changed.output).to_pylist(), built


def hub_rows(count, first=0):
    return {
        "image": [Image.open(io.BytesIO(picture(index))) for index in range(first, first + count)],
        "label": [index % 3 for index in range(first, first + count)],
    }


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})


@pytest.fixture
def hub(tmp_path):
    """A folder as ``push_to_hub`` lays it out: two splits, one of them in two files."""
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "README.md").write_text("---\n")
    (tmp_path / "data" / "logo.png").write_bytes(picture(0))
    for name, count, first in (
        ("train-00000-of-00002", 7, 0),
        ("train-00001-of-00002", 5, 7),
        ("test-00000-of-00001", 3, 12),
    ):
        table = datasets.Dataset.from_dict(hub_rows(count, first), features=FEATURES)
        table.to_parquet(str(folder / f"{name}.parquet"), batch_size=4)
    return tmp_path / "data"


def test_a_hub_folder_keeps_pictures_labels_ids_and_splits(hub, wanted):
    rows, built = rows_of(wanted)
    assert (len(rows), built.contents) == (15, 15)
    assert built.splits == {"train": 12, "test": 3}
    assert built.skipped == {".md": 1, ".png": 1}
    assert list(built.columns) == [
        *("pair_id", "content_uri", "style_uri", "label", "label_id", "split"),
    ]
    found = {row["content_uri"]: row for row in rows}
    for split, count in (("train", 12), ("test", 3)):
        theirs = datasets.load_dataset(str(hub / "data"), split=split, cache_dir=str(hub / ".c"))
        assert len(theirs) == count
        expected = [(np.asarray(row["image"]).tobytes(), row["label"]) for row in theirs]
        ours = [
            (np.asarray(Image.open(io.BytesIO(files.read_bytes(uri, {})))).tobytes(), row)
            for uri, row in found.items()
            if row["split"] == split
        ]
        assert sorted((data, row["label_id"]) for data, row in ours) == sorted(expected)
        assert all(row["label"] == LABELS[row["label_id"]] for _, row in ours)
    recipe = json.loads(files.read_bytes(uris.join(wanted.output, "_manifest.json"), {}))
    assert recipe["class_list"] == {"names": NAMES, "labels": LABELS}
    assert recipe["content_format"] == "parquet"


def test_rows_keep_their_styles_and_ids_when_files_come_and_go(hub, wanted):
    before, _ = rows_of(wanted)
    (hub / "data" / "test-00000-of-00001.parquet").unlink()
    moved = hub.rename(hub.parent / "moved")
    after, _ = rows_of(wanted, content=str(moved))
    kept = {row["pair_id"]: row["style_uri"] for row in before}
    assert len(after) == 12
    assert all(kept[row["pair_id"]] == row["style_uri"] for row in after)


def test_with_a_key_column_only_the_keys_count(tmp_path, wanted):
    def styles_of(order, files_of):
        folder = tmp_path / f"keyed-{files_of}"
        folder.mkdir()
        for number in range(0, len(order), files_of):
            some = order[number : number + files_of]
            columns = {"image": [picture(index) for index in some], "id": [*some]}
            pq.write_table(pa.table(columns), folder / f"{number}.parquet")
        rows, _ = rows_of(wanted, content=str(folder), key_column="id")
        return {row["pair_id"]: row["style_uri"] for row in rows}

    assert styles_of(range(20), 20) == styles_of(range(19, -1, -1), 7)


def test_the_formats_can_be_named(hub, wanted):
    for form in ("parquet", "hugging-face"):
        assert len(rows_of(wanted, content_format=form)[0]) == 15
    rows, _ = rows_of(wanted, content_format="images")
    assert [row["content_uri"] for row in rows] == [str(hub / "logo.png")]
    (hub / "data" / "plain").mkdir()
    plain = hub / "data" / "plain" / "x.parquet"
    pq.write_table(pa.table({"image": [picture(0)], "label": [7]}), plain)
    rows, _ = rows_of(wanted, content=str(plain))
    assert (rows[0]["label"], rows[0]["label_id"], rows[0]["split"]) == ("7", 7, None)
    with pytest.raises(BuildError, match="has no features of Hugging Face's datasets"):
        rows_of(wanted, content=str(plain), content_format="hugging-face")


def test_what_save_to_disk_wrote_is_named(tmp_path, wanted):
    table = datasets.Dataset.from_dict(hub_rows(3), features=FEATURES)
    table.save_to_disk(str(tmp_path / "data"))
    with pytest.raises(BuildError, match="Arrow files of save_to_disk are not read; write Parquet"):
        build(wanted)


def write_samples(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as sink:
        for sample in samples:
            sink.write(sample)


@pytest.fixture
def shards(tmp_path):
    """Three tars with class numbers; the third is of another split."""
    for name, first in (("train-000", 0), ("train-001", 4), ("val-000", 8)):
        write_samples(
            tmp_path / "data" / f"{name}.tar",
            (
                {"__key__": f"{index:04d}", "png": picture(index), "cls": index % 3}
                for index in range(first, first + 4)
            ),
        )
    return tmp_path / "data"


def test_tars_keep_keys_and_class_numbers(shards, wanted):
    rows, built = rows_of(wanted)
    assert (built.contents, built.splits) == (12, {"train": 8, "val": 4})
    data = {files.read_bytes(row["content_uri"], {}): row for row in rows}
    urls = sorted(map(str, shards.glob("*.tar")))
    theirs = webdataset.WebDataset(urls, shardshuffle=False)
    for sample in theirs:
        row = data[sample["png"]]
        assert row["label_id"] == int(sample["cls"])
        assert row["label"] == str(row["label_id"])
        assert f"member={sample['__key__']}.png" in row["content_uri"]


def test_braces_name_tars(shards, wanted):
    whole, _ = rows_of(wanted)
    rows, built = rows_of(wanted, content=str(shards / "train-{000..001}.tar"))
    assert built.contents == 8
    ids = {row["pair_id"]: row["style_uri"] for row in whole}
    assert all(ids[row["pair_id"]] == row["style_uri"] for row in rows)
    with pytest.raises(BuildError, match=r"train-002\.tar: there is no such file"):
        rows_of(wanted, content=str(shards / "train-{000..002}.tar"))


def test_class_names_lie_beside_the_tars_or_are_given(shards, wanted):
    (shards / "classes.txt").write_text("\n".join(NAMES) + "\n")
    rows, _ = rows_of(wanted, content=str(shards / "*.tar"))
    assert {(row["label_id"], row["label"]) for row in rows} == {*enumerate(LABELS)}
    other = shards.parent / "other.json"
    other.write_text(json.dumps({"c": 2, "a": 0, "b": 1}))
    rows, _ = rows_of(wanted, class_names=str(other))
    assert {(row["label_id"], row["label"]) for row in rows} == {*enumerate("abc")}
    other.write_text("a\nb\n")
    rows, built = rows_of(wanted, class_names=str(other))
    assert built.skipped["with a label outside the class list"] == 4
    assert len(rows) == 8


def test_labels_in_json_members(tmp_path, wanted):
    labels = ({"label": "ape", "label_id": 2, "fine": 5}, {"cls": 1}, {"class": "x"}, {})
    write_samples(
        tmp_path / "data.tar",
        (
            {"__key__": f"deep/{index}", "jpg": picture(index), "seg.png": b"mask", "json": label}
            for index, label in enumerate(labels)
        ),
    )
    here = replace(wanted, content=str(tmp_path / "data.tar"))
    rows, built = rows_of(here)
    assert [(row["label"], row["label_id"]) for row in rows] == [
        *(("ape", 2), ("1", 1), ("x", None), (None, None)),
    ]
    assert built.labels[None] == 1
    rows, _ = rows_of(here, label_column="fine")
    assert [row["label_id"] for row in rows] == [5, None, None, None]
    rows, _ = rows_of(here, label_from="parent")
    assert [row["label"] for row in rows] == ["deep"] * 4
    rows, _ = rows_of(here, image_column="seg.png")
    assert files.read_bytes(rows[0]["content_uri"], {}) == b"mask"


def test_samples_that_lack_something_are_counted(tmp_path, wanted):
    write_samples(
        tmp_path / "data.tar",
        [
            {"__key__": "a", "jpg": picture(0), "cls": 0},
            {"__key__": "b", "cls": 0},
            {"__key__": "c", "jpg": b"", "cls": 0},
            {"__key__": "d", "jpg": picture(0), "json": b"{"},
            {"__key__": "e", "jpg": picture(0), "cls": b"\xff"},
            {"__key__": "f", "jpg": picture(0)},
        ],
    )
    rows, built = rows_of(wanted, content=str(tmp_path / "data.tar"))
    assert [row["label_id"] for row in rows] == [0, None]
    assert built.skipped == {
        "without a picture": 1,
        "with an empty picture": 1,
        "with a json member that cannot be read": 1,
        "with a label not in UTF-8": 1,
    }
    write_samples(tmp_path / "two.tar", [{"__key__": "a", "jpg": b"x", "png": b"x"}])
    with pytest.raises(BuildError, match=r"sample 'a' has several pictures \(jpg, png\); choose"):
        rows_of(wanted, content=str(tmp_path / "two.tar"))


@pytest.mark.parametrize("cut", [100, 1000, 5000, 9000, 13000])
def test_a_tar_that_is_cut_off_is_counted(shards, wanted, cut):
    broken = shards / "train-000.tar"
    broken.write_bytes(broken.read_bytes()[:cut])
    if cut < 9000:  # not one sample is surely whole
        with pytest.raises(BuildError, match=r"train-000\.tar: is cut off or no tar"):
            rows_of(wanted)
        return
    rows, built = rows_of(wanted)
    assert built.skipped == {"tar cut off or damaged: train-000.tar": 1}
    assert 8 < len(rows) < 12
    for row in rows:
        Image.open(io.BytesIO(files.read_bytes(row["content_uri"], {}))).load()


@pytest.mark.parametrize(
    ("ending", "packing"), [("tgz", "gzip"), ("tar.gz", "gzip"), ("tar.bz2", "bzip2")]
)
def test_compressed_tars_are_refused(tmp_path, wanted, ending, packing):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / f"train-000.{ending}"
    with tarfile.open(path, {"gzip": "w:gz", "bzip2": "w:bz2"}[packing]) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    for content in (path, tmp_path / "data", f"{tmp_path}/data/train-{{000..000}}.{ending}"):
        for form in ("auto", "tar"):
            with pytest.raises(BuildError) as caught:
                rows_of(wanted, content=str(content), content_format=form)
            (line,) = str(caught.value).splitlines()
            assert f"train-000.{ending}: is compressed ({packing})" in line
            assert line.endswith("unpack it to a plain .tar")


@pytest.mark.parametrize("kind", [pa.binary(), pa.struct([("bytes", pa.binary())])])
def test_columns_of_lists_of_pictures_are_refused(tmp_path, wanted, kind):
    picture_of = {True: picture(0), False: {"bytes": picture(0)}}[kind == pa.binary()]
    columns = {"images": pa.array([[picture_of] * 2], pa.list_(kind)), "label": [0]}
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    line = (
        f"{tmp_path}/data.parquet: column 'images' holds lists of pictures, and a content is one "
        "picture; write a row for each of them"
    )
    for more in ({}, {"content_format": "parquet"}, {"image_column": "images"}):
        with pytest.raises(BuildError) as caught:
            rows_of(wanted, content=str(tmp_path / "data.parquet"), **more)
        assert str(caught.value) == line
    columns["image"] = [picture(0)]
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    assert len(rows_of(wanted, content=str(tmp_path / "data.parquet"))[0]) == 1


def lineage_of(output):
    """What a job keeps of a manifest."""
    manifest = open_manifest(output, {})
    checker = RowChecker(output, "f", frozenset({"file"}))
    plan = planning.write_plan(manifest, f"{output}-plan", {}, checker=checker, limit=None)
    return lineage.of_manifest(output, manifest.schema, plan.class_ids, {})


def test_a_job_keeps_ids_and_names_of_all_classes(hub, wanted):
    rows_of(wanted, classes=("ape",), per_class=1)
    found = lineage_of(wanted.output)
    assert found.ids == {label: number for number, label in enumerate(LABELS)}
    assert found.names == tuple(NAMES)
    assert output_shards.columns_of(["ape"], found).names == NAMES


def test_a_job_keeps_class_numbers_of_tars(shards, wanted):
    rows_of(wanted, classes=("2",))
    found = lineage_of(wanted.output)
    assert (found.ids, found.names) == ({"2": 2}, ())
    assert output_shards.columns_of(["2"], found).classes == {"0": 0, "1": 1, "2": 2}
    (shards / "classes.txt").write_text("\n".join(NAMES))
    rows_of(wanted, classes=("ape",))
    assert lineage_of(wanted.output).names == tuple(NAMES)


def test_licences_and_authors_are_kept(hub, wanted):
    (hub / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Set\n")
    (hub.parent / "art" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    rows = hub_rows(2) | {"license": ["CC BY 2.0", None], "author": ["A", "B"]}
    table = datasets.Dataset.from_dict(rows)
    table.to_parquet(str(hub / "data" / "more.parquet"))
    found, built = rows_of(wanted, content=str(hub / "data" / "more.parquet"))
    assert list(built.columns)[-2:] == ["license", "author"]
    assert sorted((row["author"], row["license"]) for row in found) == [
        *(("A", "CC BY 2.0"), ("B", None)),
    ]
    recipe = json.loads(files.read_bytes(uris.join(wanted.output, "_manifest.json"), {}))
    assert recipe["licences"] == {
        "content": {"license": "cc-by-4.0"},
        "style": {"license": "cc0-1.0"},
    }
    path = hub.parent / "l.csv"
    path.write_text("file_name,license_url\na.png,https://h/l\n")
    found, _ = rows_of(wanted, content=str(path))
    assert found[0]["license_url"] == "https://h/l"


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_null_pictures_are_counted(tmp_path, wanted, kind):
    images = [picture(0), None, picture(1), None, picture(2)]
    if kind == "struct":
        images = [image and {"bytes": image, "path": None} for image in images]
        images.append({"bytes": None, "path": None})
        images.append({"bytes": None, "path": "a.png"})
    path = tmp_path / "data.parquet"
    table = pa.table({"image": images, "label": [0, 1, -1, None, 2, 2, 2][: len(images)]})
    pq.write_table(table, path, row_group_size=3)
    rows, built = rows_of(wanted, content=str(path))
    assert built.skipped == {"without a picture": 2 + (kind == "struct")}
    assert [row["label_id"] for row in rows][:3] == [0, None, 2]
    assert len(rows) == 3 + (kind == "struct")
    assert built.labels[None] == 1


def test_columns_that_leave_a_question_open(tmp_path, wanted):
    path = tmp_path / "data.parquet"
    features = {name: {"_type": "ClassLabel", "names": ["a", "b"]} for name in ("coarse", "fine")}
    columns = {"left": [b"x"], "right": [b"y"], "coarse": [0], "fine": [1], "boxes": [[1]]}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(told), path)
    here = replace(wanted, content=str(path))
    for changes, message in (
        ({"label_column": "fine"}, r"several columns may hold pictures \(left, right\); choose"),
        ({"image_column": "left"}, r"several columns of classes \(coarse, fine\); choose one"),
        ({"image_column": "fine"}, r"has no pictures in a column 'fine'"),
        ({"image_column": "left", "label_column": "x"}, r"has no column 'x' \(--label-column\)"),
        ({"image_column": "left", "label_column": "boxes"}, "neither names nor numbers of classes"),
    ):
        with pytest.raises(BuildError, match=message):
            rows_of(here, **changes)
    rows, _ = rows_of(here, image_column="right", label_column="fine")
    assert (rows[0]["label"], rows[0]["label_id"]) == ("b", 1)
    assert files.read_bytes(rows[0]["content_uri"], {}) == b"y"


def test_names_win_over_numbers_where_files_disagree(tmp_path, wanted):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, classes in (("a", ["x", "y"]), ("b", ["y", "x", "z"])):
        features = datasets.Features(
            {"image": datasets.Value("binary"), "label": datasets.ClassLabel(names=classes)}
        )
        labels = [*range(len(classes))]
        rows = {"image": [picture(index) for index in labels], "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{name}.parquet")
    rows, built = rows_of(wanted)
    assert sorted((row["label"], row["label_id"]) for row in rows) == [
        *(("x", 0), ("x", 0), ("y", 1), ("y", 1)),
    ]
    assert built.skipped == {"with a label outside the class list": 1}


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("l.csv", "\ufefffile_name;label;split\nb/1.png;cat;train\n2.png;dog;\n", [("cat", None)]),
        ("l.tsv", "path\tlabel\nb/1.png\tcat\n", [("cat", None)]),
        ("l.jsonl", '{"image": "b/1.png", "label": 3}\n', [("3", 3)]),
        ("l.csv", 'label_id,label,image\n3,"c\nt",b/1.png\n', None),
        ("l.csv", "label_id,label,image\n3,cat,./b/1.png\n,,\n4,,\n1\n", [("cat", 3)]),
    ],
)
def test_lists_of_images(tmp_path, wanted, name, text, found):
    (tmp_path / name).write_text(text, encoding="utf-8")
    here = replace(wanted, content=str(tmp_path / name))
    if found is None:
        with pytest.raises(BuildError, match=r"label: 'c\\nt' cannot be a file name"):
            rows_of(here)
        return
    rows, _ = rows_of(here)
    assert [(row["label"], row.get("label_id")) for row in rows][:1] == found
    assert rows[0]["content_uri"] == str(tmp_path / "b" / "1.png")


def test_lists_with_faults_are_counted_or_end_in_one_line(tmp_path, wanted):
    path = tmp_path / "l.csv"
    here = replace(wanted, content=str(path))
    lines = "\n".join(["a.png,cat", ",cat", "1,2,3", "zip::s3://b/x.png,cat", "http://u:p@h/a,c"])
    path.write_text(f"file_name,label\n{lines}\n")
    _, built = rows_of(here)
    assert built.skipped == {
        "without an image": 1,
        "on a line that cannot be read": 1,
        "'::' in the name": 1,
        "with a password or a signature in the address": 1,
    }
    for text, message in (
        ("a,b\n1,2\n", r"l\.csv: has no column of images \(file_name, .*its columns: a, b"),
        ("", "it has no header line"),
        ('file_name\n"a\n', "the row at line 2 cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(BuildError, match=message) as caught:
            rows_of(here)
        assert str(caught.value).startswith(str(path))
    path.write_bytes("file_name,label\na.png,Kätzchen\n".encode("latin-1"))
    with pytest.raises(BuildError, match="line 2 is not UTF-8"):
        rows_of(here)


@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/unsupervised-00001-of-00002.parquet", "unsupervised"),
        ("imagenet-val-000012.tar", "val"),
        ("default/test/0000.parquet", "test"),
        ("train/shard_validation.1.tar", "validation"),
        ("Train/0.tar", "Train"),
        ("strain/0.tar", None),
        ("0000.parquet", None),
    ],
)
def test_splits_in_names(key, split):
    assert split_in(key) == split


def test_styles_may_be_a_data_set_too(hub, wanted):
    rows, built = rows_of(wanted, style=str(hub), style_per_class=True)
    assert built.styles == 15
    classes = {name: {row["style_uri"] for row in rows if row["label"] == name} for name in LABELS}
    rows, _ = rows_of(wanted)
    label_of = {row["content_uri"]: row["label"] for row in rows}
    for name, styles in classes.items():
        assert {label_of[style] for style in styles} == {name}


def test_data_sets_on_s3(hub, shards_on_s3, wanted):
    options, bucket = shards_on_s3
    there = replace(wanted, storage_options=options)
    rows, built = rows_of(there, content=f"s3://{bucket}/{{train-000,val-000}}.tar")
    assert built.splits == {"train": 4, "val": 4}
    assert {row["label"] for row in rows} == {*LABELS}  # classes.txt lies there
    Image.open(io.BytesIO(files.read_bytes(rows[0]["content_uri"], options))).load()
    fs, _ = filesystems.filesystem("s3://x", options)
    for path in (hub / "data").iterdir():
        fs.pipe_file(f"{bucket}/hub/data/{path.name}", path.read_bytes())
    rows, _ = rows_of(there, content=f"s3://{bucket}/hub")
    local, _ = rows_of(wanted, content=str(hub))
    assert {row["pair_id"] for row in rows} == {row["pair_id"] for row in local}
    assert files.read_bytes(rows[0]["content_uri"], options).startswith(b"\x89PNG")


@pytest.fixture
def shards_on_s3(s3, tmp_path):
    """The tars of ``shards`` in a bucket, with a list of classes beside them."""
    options, bucket = s3
    fs, _ = filesystems.filesystem("s3://x", options)
    for name, first in (("train-000", 0), ("train-001", 4), ("val-000", 8)):
        samples = (
            {"__key__": f"{index:04d}", "png": picture(index), "cls": index % 3}
            for index in range(first, first + 4)
        )
        write_samples(tmp_path / "up" / f"{name}.tar", samples)
        fs.pipe_file(f"{bucket}/{name}.tar", (tmp_path / "up" / f"{name}.tar").read_bytes())
    fs.pipe_file(f"{bucket}/classes.txt", "\n".join(NAMES).encode())
    return options, bucket


def test_settings_for_data_sets_that_do_not_fit(wanted):
    for changes, message in (
        ({"content_format": "images", "image_column": "x"}, "image_column: is for data sets"),
        ({"content_format": "tar", "key_column": "x"}, "key_column: is not for tars"),
        ({"label_from": "parent", "label_column": "x"}, "label_column: is not used"),
        ({"mode": "cross", "style_weights": "{}"}, "style_weights: only for mode sample"),
        ({"style_probability": 0.0}, "style_probability: 0.0 is out of range"),
        ({"val_fraction": 1.0}, "val_fraction: 1.0 is out of range"),
    ):
        with pytest.raises(SettingError, match=message):
            replace(wanted, **changes)


def test_50_000_tiny_rows_need_little_memory(tmp_path, wanted, monkeypatch):
    """Neither the pictures nor the rows are held; the rows alone would take more than 30 MB.

    Most of what is held is a cache of 2**16 names.
    """
    monkeypatch.setattr(pairing, "DRAWS", 6000)  # 1000 contents at a time
    images = pa.array([{"bytes": picture(0), "path": None}] * 5000)
    table = pa.table({"image": images, "label": pa.array([*range(100)] * 50)})
    (tmp_path / "data").mkdir()
    for number in range(10):
        pq.write_table(table, tmp_path / "data" / f"train-{number}.parquet", row_group_size=1000)
    tracemalloc.start()
    try:
        built = build(replace(wanted, rows_per_file=2000))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert built.pairs == 50_000
    print(f"at most {most / 1e6:.1f} MB")
    assert most < 20e6
