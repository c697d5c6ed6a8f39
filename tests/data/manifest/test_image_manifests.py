"""Manifests whose pictures are in the table itself, written by the libraries that people use."""

import io
import subprocess
import sys

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.errors import RowError
from pipeline.data.images import codec
from pipeline.data.manifest import planning
from pipeline.data.manifest.manifest import ManifestError, base_of, open_manifest
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.storage import files
from tests.conftest import image_bytes

PICTURES = [image_bytes(seed, 8, 8) for seed in range(4)]


def planned(source, options=None, fingerprint="f"):
    manifest = open_manifest(str(source), options or {})
    checker = RowChecker(
        base_of(str(source), options or {}), fingerprint, frozenset({"file", "s3"})
    )
    slices = list(planning.planned_slices(manifest, checker, None))
    rows = [row for rows in slices for row in rows]
    assert manifest.rows == len(rows)
    return rows


def contents(rows):
    return [files.read_bytes(row["content_uri"], {}) for row in rows]


def image(data):
    return Image.open(io.BytesIO(data))


def hugging_face(folder, rows=4, **more):
    """A data set with pictures as ``load_dataset`` keeps it: two files below ``data/``."""
    features = datasets.Features(
        {
            "content_image": datasets.Image(),
            "style_image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {
        "content_image": [image(data) for data in PICTURES[:rows]],
        "style_image": [{"bytes": PICTURES[0], "path": "s.png"}] * rows,
        "label": [0, 1, 1, 0][:rows],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    (folder / "data").mkdir(parents=True)
    for index in range(2):
        shard = whole.shard(2, index, contiguous=True)
        shard.to_parquet(folder / "data" / f"train-{index:05d}-of-00002.parquet", **more)
    return folder


def test_a_hugging_face_folder_as_it_lies_on_disk(tmp_path):
    rows = planned(hugging_face(tmp_path / "set"))
    assert [row["label"] for row in rows] == ["0", "1", "1", "0"]
    name = "data/train-00001-of-00002.parquet#image=content_image&group=0&row=0"
    assert rows[2]["content_uri"] == f"{tmp_path}/set/{name}"
    assert [row["fault_class"] for row in rows] == [None] * 4
    for row, data in zip(rows, contents(rows), strict=True):
        there = np.asarray(image(PICTURES[row["manifest_row"]]))
        assert (np.asarray(image(data)) == there).all()
        assert files.read_bytes(row["style_uri"][0], {}) == PICTURES[0]
    assert len({row["pair_id"] for row in rows}) == 4


def test_ids_do_not_depend_on_where_the_data_set_lies(tmp_path):
    hugging_face(tmp_path / "one")
    hugging_face(tmp_path / "two")
    one, two = planned(tmp_path / "one"), planned(tmp_path / "two")
    assert [row["pair_id"] for row in one] == [row["pair_id"] for row in two]
    assert one[0]["pair_id"] != planned(tmp_path / "one", fingerprint="g")[0]["pair_id"]


WRITERS = {
    "pandas": lambda rows, path: pd.DataFrame(rows).to_parquet(path),
    "polars": lambda rows, path: pl.DataFrame(rows).write_parquet(path),
    "duckdb": lambda rows, path: duckdb.from_arrow(pa.Table.from_pylist(rows)).write_parquet(path),
    "pyarrow": lambda rows, path: pq.write_table(pa.Table.from_pylist(rows), path),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("is_struct", [False, True], ids=["binary", "struct"])
def test_bytes_as_other_libraries_write_them(writer, is_struct, tmp_path):
    def cell(data):
        return {"bytes": data, "path": None} if is_struct else data

    rows = [
        {"content": cell(data), "style": [cell(PICTURES[0]), cell(PICTURES[1])], "note": "n"}
        for data in PICTURES
    ]
    if is_struct:  # a column of nulls has no type of texts
        rows[0]["content"]["path"] = rows[0]["style"][0]["path"] = "x.png"
    path = str(tmp_path / "m.parquet")
    WRITERS[writer](rows, path)
    found = planned(path)
    assert contents(found) == PICTURES
    assert [row["note"] for row in found] == ["n"] * 4
    for row in found:
        assert [files.read_bytes(uri, {}) for uri in row["style_uri"]] == PICTURES[:2]
        assert row["style_blend"] == [1.0, 1.0]


def test_nulls_and_paths(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(PICTURES[0])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = pa.array([{"path": "p/a.png"}, {}, None, {"path": "https://h/x.png"}], kind)
    table = pa.table({"content_image": named, "style_uri": ["s.png"] * 4})
    pq.write_table(table, tmp_path / "m.parquet")
    rows = planned(tmp_path / "m.parquet")
    assert rows[0]["content_uri"] == str(tmp_path / "p/a.png")
    assert [row["fault_class"] for row in rows] == [
        None,
        "bad_row",
        "bad_row",
        "scheme_not_allowed",
    ]
    assert rows[1]["fault_message"] == (
        "manifest row 1: content_uri: is null or empty; give a path or a URI"
    )
    assert len({row["pair_id"] for row in rows}) == 4
    mixed = pa.array([{"bytes": PICTURES[1]}, {"path": "p/a.png"}, None], kind)
    table = pa.table({"content_image": mixed, "style_uri": ["s.png"] * 3})
    pq.write_table(table, tmp_path / "m.parquet")
    rows = planned(tmp_path / "m.parquet")
    assert contents(rows[:2]) == [PICTURES[1], PICTURES[0]]


def test_each_bad_picture_is_one_error_of_its_own_row(tmp_path):
    """A null, an empty struct, no bytes, a missing file, other bytes, a cut image; one is good."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        None,
        {},
        {"bytes": b""},
        {"path": "none.png"},
        {"bytes": b"no image", "path": "x.png"},
        {"bytes": image_bytes(0, 64, 64)[:600]},
        {"bytes": image_bytes(0, 64, 64)},
    ]
    table = pa.table({"content_image": pa.array(cells, kind), "style_uri": ["s.png"] * len(cells)})
    pq.write_table(table, tmp_path / "m.parquet")
    found, said = [], []
    for row in planned(tmp_path / "m.parquet"):
        try:
            data = files.read_bytes(row["content_uri"], {})
            codec.decode(data, row["content_uri"], 10**6)
            found.append("ok")
        except RowError as error:
            said.append(str(error))
            found.append(error.error_class)
    assert all(str(tmp_path) in text and "\n" not in text for text in said)
    assert found == [
        *("bad_row", "bad_row", "empty_file", "not_found", "not_an_image", "truncated_image", "ok"),
    ]


def test_columns_of_other_types_are_named(tmp_path, caplog):
    caplog.set_level("INFO")
    rows = {"content_image": ["c.png"], "style_uri": ["s.png"]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="'content_image' holds string; it must hold"):
        open_manifest(str(tmp_path / "m.parquet"), {})
    rows = {"content_image": [[b"c"]], "style_uri": ["s.png"]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="'content_image' holds list<"):
        open_manifest(str(tmp_path / "m.parquet"), {})
    rows = {"content_image": [b"c"], "style_uri": ["s.png"], "mask": [b"m"], "n": [1]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), {})
    assert manifest.carried == {"n": "n"}
    assert "that hold bytes are not copied into the records: mask" in caplog.text
    rows = {"content_uri": ["c.png"], "style_uri": ["s.png"], "content": [b"m"]}
    pq.write_table(pa.table(rows), tmp_path / "m.parquet")
    assert open_manifest(str(tmp_path / "m.parquet"), {}).carried == {"content": "content"}


def test_a_table_of_pictures_alone_and_folders_that_name_columns(tmp_path):
    for label in ("a", "b"):
        folder = tmp_path / "m" / f"label={label}"
        folder.mkdir(parents=True)
        table = pa.table({"content": PICTURES[:2], "style": PICTURES[2:]})
        pq.write_table(table, folder / "x.parquet", row_group_size=1)
    rows = planned(tmp_path / "m")
    assert [row["label"] for row in rows] == ["a", "a", "b", "b"]
    assert contents(rows) == PICTURES[:2] * 2
    rows = planned(tmp_path / "m" / "label=a" / "x.parquet")
    assert [row["content_uri"].partition(".parquet")[2] for row in rows] == [
        f"#image=content&group={group}&row=0" for group in range(2)
    ]


def test_rows_of_a_row_group_come_together_in_the_plan(tmp_path):
    rows = [{"content": b"c", "style_uri": f"{n % 5}.png"} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", row_group_size=10)
    manifest = open_manifest(str(tmp_path / "m.parquet"), {})
    checker = RowChecker(str(tmp_path), "f", frozenset({"file"}))
    target = str(tmp_path / "plan")
    planning.write_plan(manifest, target, {}, checker=checker, limit=None)
    found = pq.read_table(tmp_path / "plan").to_pylist()
    assert [row["manifest_row"] // 10 for row in found] == [0] * 10 + [1] * 10
    assert [row["style_uri"][0][-5:] for row in found[:4]] == ["0.png"] * 2 + ["1.png"] * 2


MEASURE = """
import re, sys
from pathlib import Path
from pipeline.data.manifest.manifest import open_manifest
from pipeline.data.manifest.planning import write_plan
from pipeline.data.manifest.rows import RowChecker

def peak():  # not ru_maxrss, which a process has from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

write_plan(open_manifest(sys.argv[2], {}), sys.argv[3], {}, checker=RowChecker("/", "f",
    frozenset({"file"})), limit=None)
before = peak()
manifest = open_manifest(sys.argv[1], {})
plan = write_plan(manifest, sys.argv[3], {}, checker=RowChecker("/", "f", frozenset({"file"})),
    limit=None)
print(plan.rows, round(peak() - before))
"""


def test_the_driver_stays_small_with_50_000_pictures(tmp_path):
    """The pictures take 500 MB; the plan of their rows takes a small part of that."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("content_image", kind), ("style_image", kind), ("label", pa.int64())])
    block = np.random.default_rng(0).bytes(10_000)
    rows = [
        {
            "content_image": {"bytes": block, "path": f"{row}.png"},
            "style_image": {"bytes": b"s", "path": None},
            "label": row,
        }
        for row in range(100)
    ]
    table = pa.Table.from_pylist(rows, schema)
    small = tmp_path / "small.parquet"
    pq.write_table(table, small)
    (tmp_path / "m").mkdir()
    for shard in range(5):
        path = tmp_path / "m" / f"train-{shard:05d}-of-00005.parquet"
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for _ in range(100):
                writer.write_table(table)
    command = [sys.executable, "-c", MEASURE, tmp_path / "m", small, tmp_path / "plan"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows, grown = map(int, output.split())
    assert rows == 50_000
    print(f"planning 50,000 rows with pictures: {grown} MB more memory")
    assert grown < 200
