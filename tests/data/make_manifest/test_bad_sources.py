"""What is wrong with a source of contents or styles is counted, or said in one line."""

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.make_manifest.building import build
from pipeline.data.make_manifest.built import BuildError
from pipeline.data.make_manifest.classes import read_names
from pipeline.data.make_manifest.labels import Labels, LabelsError
from pipeline.data.make_manifest.sources.base import SourceError
from pipeline.data.make_manifest.styles import read_weights
from pipeline.data.storage import tars
from pipeline.settings import ManifestSettings, replace

LATIN = "Kätzchen\n".encode("latin-1")


@pytest.fixture
def wanted(tmp_path):
    (tmp_path / "art").mkdir()
    (tmp_path / "art" / "a.png").write_bytes(b"")
    (tmp_path / "data").mkdir()
    return ManifestSettings(
        content=str(tmp_path / "data"), style=str(tmp_path / "art"), output=str(tmp_path / "pairs"),
        styles_per_content=1,
    )  # fmt: skip


def skipped(settings, **changes):
    """What a manifest left out, and its rows."""
    changed = replace(settings, overwrite=True, **changes)
    return build(changed).skipped, pq.read_table(changed.output).to_pylist()


def refused(settings, message, **changes):
    with pytest.raises(BuildError, match=message) as caught:
        build(replace(settings, **{"overwrite": True, **changes}))
    assert len(str(caught.value).splitlines()) == 1


def write_table(path, pictures=(b"x", b"y"), **columns):
    pq.write_table(pa.table({**columns, "image": pictures}), path)
    return path


def test_tables_that_are_damaged_are_named(wanted, tmp_path):
    path = write_table(tmp_path / "data" / "a.parquet", label=["cat", "dog"])
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    refused(wanted, r"data/a\.parquet: cannot be read: ArrowInvalid")
    path.write_bytes(data[:4] + b"\xff" * 30 + data[34:])  # the first page; the footer is whole
    refused(wanted, r"data/a\.parquet: cannot be read: ")


def test_rows_of_tables_that_cannot_be_used_are_counted(wanted, tmp_path):
    write_table(tmp_path / "data" / "a.parquet", id=["1", None], boxes=[[1], [2]])
    pq.write_table(pa.table({"text": ["no picture"]}), tmp_path / "data" / "b.parquet")
    without_pictures = {".parquet without pictures": 1}
    found, rows = skipped(wanted, key_column="id")
    assert found == {"without a key": 1, **without_pictures}
    assert len(rows) == 1
    refused(wanted, "'boxes' holds neither names nor numbers of pictures", key_column="boxes")
    paths = ("zip::s3://b/x.png", "https://u:p@h/x.png", "x.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"path": path} for path in paths], kind)
    path = write_table(tmp_path / "data" / "a.parquet", pictures, label=[1.0, 2.0, 3.0])
    found, rows = skipped(wanted)
    assert found == {"with '::', a password or a signature in the path": 2, **without_pictures}
    assert [(row["label"], row["label_id"]) for row in rows] == [("3", 3)]  # as pandas has it
    os.rename(path, os.fsencode(path.parent) + b"/\xe9.parquet")
    refused(wanted, "1 name not in UTF-8", content_format="parquet")


def test_samples_of_tars_that_cannot_be_used_are_counted(wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MOST_DATA", 40)
    members = {
        "a.png": b"x", "a.json": b"[1]",
        "b\udce9.png": b"x",
        "c.png": b"x", "c.cls": b"1" * 41,
        "d/.hidden.png": b"x", "README": b"x",
    }  # fmt: skip
    with tarfile.open(tmp_path / "data" / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found, rows = skipped(wanted)
    assert found == {
        "name not in UTF-8": 1,
        "with a label member of more than 40 bytes": 1,
        "without a sample's key": 2,
    }
    assert [(row["label"], row["label_id"]) for row in rows] == [(None, None)]
    refused(wanted, r"skipped: .*3 without a member \.jpg", image_column="jpg")


def test_files_and_lists_of_images_that_cannot_be_used_are_counted(wanted, tmp_path):
    for name in (b"a.png", b"b::c.png", b"\xe9.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + name)).write_bytes(b"")
    found, rows = skipped(wanted)
    assert found == {"'::' in the name": 1, "name not in UTF-8": 1}
    assert len(rows) == 1
    (tmp_path / "l.csv").write_text("file_name,id\na.png,1\nb.png,\n")
    found, rows = skipped(wanted, content=str(tmp_path / "l.csv"), key_column="id")
    assert found == {"without a key": 1}
    assert len(rows) == 1
    (tmp_path / "l.csv").write_text("file_name,label\na.png,cat\nb.png,\n")
    found, rows = skipped(wanted, content=str(tmp_path / "l.csv"), per_class=1)
    assert found == {"without a label": 1}
    assert [row["label"] for row in rows] == ["cat"]


def test_a_folder_without_styles_is_said(wanted, tmp_path):
    (tmp_path / "data" / "a.png").write_bytes(b"")
    (tmp_path / "art" / "a.png").rename(tmp_path / "art" / "a.txt")
    refused(wanted, r"art: holds no image|style.*holds no image \(skipped: 1 \.txt\)")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "w.csv",
            b"picture,weight\na.png,1\n",
            "needs the columns file_name and weight; it has picture",
        ),
        ("w.csv", b"file_name,weight\n,1\n", "line 2 has no name"),
        ("w.csv", b"file_name,weight\na.png,much\n", "'a.png' has the weight 'much'"),
        ("w.csv", b"file_name,weight\na.png,inf\n", "'a.png' has the weight 'inf'"),
        ("w.csv", b"file_name,weight\n" + LATIN, "is not UTF-8"),
        ("w.json", LATIN, "is no JSON such as"),
        ("w.json", b"[1]", "holds no weights by name"),
        ("none.json", None, r"style_weights .*none\.json: does not exist"),
    ],
)
def test_weights_of_styles(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_weights(str(tmp_path / name), {})


def test_labels_and_class_names_that_cannot_be_read(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"file_name,label\na.png," + LATIN)
    with pytest.raises(LabelsError, match=r"l\.csv: cannot be read: UnicodeDecodeError"):
        Labels(str(tmp_path / "l.csv"), ("label",), {})
    with pytest.raises(SourceError, match=r"^class names .*none\.txt: does not exist$"):
        read_names(str(tmp_path / "none.txt"), {})
    (tmp_path / "n.txt").write_bytes(LATIN)
    with pytest.raises(SourceError, match=r"n\.txt: is not UTF-8; save it as UTF-8"):
        read_names(str(tmp_path / "n.txt"), {})
    (tmp_path / "n.txt").write_text(json.dumps({"a": 0, "b": 2}))
    with pytest.raises(SourceError, match=r"the ids must be 0, 1, 2 and so on"):
        read_names(str(tmp_path / "n.txt"), {})


def test_labels_that_are_no_numbers_of_64_bits_are_names_or_none(wanted, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "l.csv").write_text("file_name,label,label_id\ndata/a.png,cat,\u00b2\n")
    _, rows = skipped(wanted, content=str(tmp_path / "l.csv"))
    assert [row["label"] for row in rows] == ["cat"]
    lines = [json.dumps({"file_name": f"data/{name}.png", "label": label})
             for name, label in (("a", 10**20), ("b", 7))]  # fmt: skip
    (tmp_path / "l.jsonl").write_text("\n".join(lines))
    _, rows = skipped(wanted, content=str(tmp_path / "l.jsonl"))
    assert len(rows) == 2
    (tmp_path / "l.csv").write_text("https://u:SECRET@h/a.png,cat\n")
    with pytest.raises((SourceError, BuildError)) as raised:
        build(replace(wanted, content=str(tmp_path / "l.csv"), overwrite=True))
    assert "SECRET" not in str(raised.value)
    with pytest.raises(LabelsError) as unread:
        Labels(str(tmp_path / "l.csv"), ("label",), {})
    assert "SECRET" not in str(unread.value)
