"""Shards as bytes, how images are dealt out to them, and their index. No Ray."""

import hashlib
import io
import json
import tarfile
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.errors import RowError
from pipeline.data.manifest.lineage import Lineage
from pipeline.data.output import dividing, packing, shards
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import tables
from pipeline.settings import SettingError


def record(pair_id, **changes):
    """A row of ``RECORD_SCHEMA``, as far as shards read it."""
    return {
        "pair_id": pair_id, "status": "ok", "label": "cat", "split": None,
        "file_name": f"images/{pair_id}.png", "content_uri": "in/c.png", "style_uri": ["s", "t"],
        "total_loss": 3.0, "content_loss": 1.0, "style_loss": 2.0,
        "bytes": 100, "sha256": "0" * 64, **changes,
    }  # fmt: skip


def write_records(output, rows, name="a"):
    table = pa.Table.from_pylist(rows, schema=RECORD_SCHEMA)
    tables.write_table(f"{output}/records/{name}.parquet", table, {})


SAMPLES = [
    (record("a.1"), b"one"),
    (record("b", label="dog", file_name="images/b.webp"), b"two"),
    (record("c", label=None), b"three"),
]


PETS = shards.Columns({"cat": 0, "dog": 1}, ["cat", "dog"])
NONE = shards.Columns()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_tar_has_the_same_fields_for_every_sample_and_always_the_same_bytes():
    data = shards.write_tar(iter(SAMPLES), PETS)
    found = members(data)
    assert list(found) == [
        "a%2E1.cls", "a%2E1.json", "a%2E1.png", "b.cls", "b.json", "b.webp",
        "c.cls", "c.json", "c.png",
    ]  # fmt: skip
    assert [found[f"{key}.cls"] for key in ("a%2E1", "b", "c")] == [b"0", b"1", b"-1"]
    assert (found["a%2E1.png"], found["b.webp"]) == (b"one", b"two")
    facts = json.loads(found["b.json"])
    assert (facts["pair_id"], facts["label"], facts["style_uri"]) == ("b", "dog", ["s", "t"])
    assert facts["total_loss"] == 3.0
    assert shards.write_tar(iter(SAMPLES), PETS) == data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}
    assert "a%2E1.cls" not in members(shards.write_tar(iter(SAMPLES), NONE))


def test_keys_have_no_dots_and_differ_where_ids_do():
    ids = ["a.b", "a_b", "a%2Eb", "../up", "näh e", "x" * 300, "a\nb", "a/b"]
    keys = [shards.key_of(pair_id) for pair_id in ids]
    assert len(set(keys)) == len(ids)
    assert not any(letter in key for key in keys for letter in "./\n")
    assert [unquote(key) for key in keys] == ids
    long = members(shards.write_tar([(record("x" * 300), b"i")], NONE))
    assert long["x" * 300 + ".png"] == b"i"


def test_a_parquet_shard_holds_images_and_tells_their_features():
    data = shards.write_parquet(iter(SAMPLES), PETS)
    table = pq.read_table(io.BytesIO(data))
    assert table["image"].to_pylist() == [
        {"bytes": b"one", "path": "a%2E1.png"},
        {"bytes": b"two", "path": "b.webp"},
        {"bytes": b"three", "path": "c.png"},
    ]
    assert table["label"].to_pylist() == [0, 1, None]
    assert table["style_uri"].to_pylist() == [["s", "t"]] * 3
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["cat", "dog"], "_type": "ClassLabel"}
    assert features.keys() == set(table.column_names)
    assert shards.write_parquet(iter(SAMPLES), PETS) == data
    assert (
        "label" not in pq.read_table(io.BytesIO(shards.write_parquet(SAMPLES, NONE))).column_names
    )


def test_row_groups_are_small(monkeypatch):
    many = [(record(f"p{index}"), b"x") for index in range(250)]
    groups = pq.ParquetFile(io.BytesIO(shards.write_parquet(many, NONE))).metadata
    assert [groups.row_group(i).num_rows for i in range(3)] == [100, 100, 50]
    monkeypatch.setattr(shards, "GROUP_BYTES", 10)
    groups = pq.ParquetFile(io.BytesIO(shards.write_parquet(many[:15], NONE))).metadata
    assert [groups.row_group(i).num_rows for i in range(2)] == [10, 5]


@pytest.mark.parametrize(
    ("sizes", "shard_bytes", "counts"),
    [
        ([100] * 10, 1000, [10]),
        ([100] * 10, 999, [5, 5]),
        ([100] * 10, 300, [3, 2, 3, 2]),
        ([100] * 3, 1, [1, 1, 1]),
        ([1, 1, 1, 5000], 100, [4]),  # in one image's company: none is empty
        ([5000, 1, 1, 1], 100, [1, 3]),
        ([7], 100, [1]),
    ],
)
def test_shards_are_about_equal_and_none_is_empty(sizes, shard_bytes, counts):
    places = np.arange(10, 10 + len(sizes), dtype=np.uint64)
    starts = dividing.cut(places, np.array(sizes), shard_bytes)
    dealt = np.searchsorted(starts, places, side="right")
    assert np.bincount(dealt).tolist() == counts
    if max(sizes) < shard_bytes:
        assert max(np.bincount(dealt, sizes)) < shard_bytes + max(sizes)


def test_classes_keep_the_ids_and_the_names_of_their_source():
    ids = {"tench": 0, "T-shirt": 1, "ape": 4}
    kept = shards.columns_of(["ape", "tench"], Lineage(ids))
    assert kept.classes == {"tench": 0, "T-shirt": 1, "2": 2, "3": 3, "ape": 4}
    assert kept.names == ["tench", "T-shirt", "2", "3", "ape"]
    names = ("tench", "T-shirt/top", "c", "d", "ape")
    assert shards.columns_of(["ape"], Lineage(ids, names)).names == [*names]
    assert shards.columns_of(["ape", "new"], Lineage(ids, names)).classes == {"ape": 0, "new": 1}
    assert shards.columns_of([], Lineage(ids, names)).classes == {}
    assert shards.columns_of(["2"], Lineage({"2": 3})).names == ["0", "1", "class-2", "2"]


def test_licences_go_into_the_shards():
    columns = shards.Columns(credits=("license", "author"))
    rows = [({**row, "license": "CC0", "author": None}, image) for row, image in SAMPLES]
    facts = json.loads(members(shards.write_tar(rows, columns))["b.json"])
    assert (facts["license"], facts["author"]) == ("CC0", None)
    table = pq.read_table(io.BytesIO(shards.write_parquet(rows, columns)))
    assert table["license"].to_pylist() == ["CC0"] * 3
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["author"] == {"dtype": "string", "_type": "Value"}


def dealt(output, packed) -> dict[str, list[str]]:
    """The pair_ids in each shard, in their order."""
    tables = list(dividing.ok_records(output, packed.format, {}))
    return {
        part.name: [
            row["pair_id"] for table in tables for row in dividing.select(table, part).to_pylist()
        ]
        for part in packed.ranges
    }


def test_every_ok_record_has_its_shard_whatever_file_it_is_in(tmp_path):
    rows = [record(f"p{index}", split="train" if index % 4 else "val") for index in range(40)]
    failed = record("f", status="error", label="emu", error_class="not_found")
    odd = record("g", status="error", label="../up", error_class="bad_name")
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    write_records(one, [*rows, failed, odd])
    for part in range(4):
        write_records(other, [*rows, failed, odd][::-1][part::4], str(part))
    plans = [dividing.divide(output, "webdataset", 500, {}) for output in (one, other)]
    assert plans[0] == plans[1]
    assert plans[0].samples == 40
    assert plans[0].columns.classes == {"cat": 0, "emu": 1}
    found = dealt(one, plans[0])
    assert found == dealt(other, plans[0])
    names = [f"train-{number:06d}.tar" for number in range(6)]
    assert list(found) == [*names, "val-000000.tar", "val-000001.tar"]
    assert [len(ids) for ids in found.values()] == [5] * 8
    train = [row["pair_id"] for row in rows if row["split"] == "train"]
    in_order = sorted(train, key=dividing.place_of)
    assert [pair_id for name in names for pair_id in found[name]] == in_order != train
    parquet = dividing.divide(one, "parquet", 10**6, {})
    assert {name: len(ids) for name, ids in dealt(one, parquet).items()} == {
        "data/train-00000-of-00001.parquet": 30,
        "data/val-00000-of-00001.parquet": 10,
    }
    assert parquet.digest == plans[0].digest
    write_records(one, [{**rows[0], "total_loss": 4.0}, *rows[1:], failed, odd])
    assert dividing.divide(one, "parquet", 10**6, {}).digest != plans[0].digest


def test_pairs_without_a_split(tmp_path):
    write_records(str(tmp_path), [record("a"), record("b", split="train")])
    tar = dividing.divide(str(tmp_path), "webdataset", 1000, {})
    assert dealt(str(tmp_path), tar) == {"000000.tar": ["a"], "train-000000.tar": ["b"]}
    parquet = dividing.divide(str(tmp_path), "parquet", 1000, {})
    (ids,) = dealt(str(tmp_path), parquet).values()
    assert sorted(ids) == ["a", "b"]
    assert dividing.divide(str(tmp_path / "none"), "parquet", 1000, {}).ranges == ()


def test_an_index_says_what_must_be_there_and_what_is_stale(tmp_path):
    folder = str(tmp_path / "webdataset")
    assert packing.read_index(folder, {}) is None
    shard = packing.Shard("a-000000.tar", "a", 2, 9, "f" * 64)
    index = packing.Index("webdataset", 100, "d", {"cat": 0}, (shard,))
    packing.write_index(folder, index, {})
    assert packing.read_index(folder, {}) == index
    classes = (tmp_path / "webdataset" / "classes.json").read_bytes()
    assert json.loads(classes) == {"cat": 0}
    assert index.files() == {
        "a-000000.tar": (9, "f" * 64),
        "classes.json": (len(classes), hashlib.sha256(classes).hexdigest()),
    }
    names = ["a-000000.tar", "000000.tar", "b-000001.tar", "notes.tar", "classes.json", "x.json"]
    names += ["backup-20250101.tar", "20250101.tar"]
    assert [name for name in names if packing.is_stale(name, index)] == names[1:3]


def test_what_is_not_ours_is_refused(tmp_path):
    (tmp_path / "parquet").mkdir()
    packing.refuse_foreign(str(tmp_path), "parquet", {})
    (tmp_path / "parquet" / "mine.parquet").write_bytes(b"precious")
    with pytest.raises(SettingError, match=r"parquet holds files but no index\.json"):
        packing.refuse_foreign(str(tmp_path), "parquet", {})
    whole = {"format": "parquet", "shard_bytes": 1, "shards": []}
    wrong = [json.dumps(whole | {"shard_bytes": size}) for size in (0, -1, 1.5, "x", None)]
    texts = ("{", "[]", '{"shards": [{"x": 1}]}', '{"shards": []}', "[" * 100_000, *wrong)
    for text in texts:
        (tmp_path / "parquet" / "index.json").write_text(text)
        with pytest.raises(RowError, match="was not written by this program"):
            packing.read_index(str(tmp_path / "parquet"), {})
