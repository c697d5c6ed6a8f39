"""What is kept of a data set: ids and names of classes, licences."""

import json
import math

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.manifest import lineage, planning
from pipeline.data.manifest.lineage import ClassIds, Lineage
from pipeline.data.manifest.manifest import base_of, open_manifest
from pipeline.data.manifest.rows import RowChecker


def lineage_of(source, tmp_path):
    manifest = open_manifest(str(source), {})
    base = base_of(str(source), {})
    checker = RowChecker(base, "f", frozenset({"file"}))
    plan = planning.write_plan(manifest, f"{tmp_path}/plan", {}, checker=checker, limit=None)
    assert not plan.class_fault
    return lineage.of_manifest(base, manifest.schema, plan.class_ids, {})


def write(path, **columns):
    count = len(next(iter(columns.values())))
    uris = {"content_uri": [f"{n}.png" for n in range(count)], "style_uri": ["s.png"] * count}
    pq.write_table(pa.table({**uris, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "ids"),
    [
        ({"label": ["b", "a", None], "label_id": [0, 1, None]}, {"b": 0, "a": 1}),
        ({"label": ["b", "a", None], "label_id": ["0", "10", ""]}, {"b": 0, "a": 10}),
        ({"label": [2, 10, None]}, {"2": 2, "10": 10}),
        ({"label": [2.0, 10.0, None]}, {"2": 2, "10": 10}),
        ({"label": [2, 10, -1]}, {"2": 2, "10": 10}),
        ({"label": ["2", "10", None]}, {}),
        ({"label": ["a", "b", "c"], "label_id": pa.nulls(3)}, {}),
    ],
)
def test_ids_of_classes_are_those_of_the_rows(tmp_path, columns, ids):
    path = write(tmp_path / "m.parquet", **columns)
    assert lineage_of(path, tmp_path) == Lineage(ids)


def test_ids_in_a_csv_file(tmp_path):
    lines = ["content_uri,style_uri,label,label_id,license", "a.png,s.png,b,3,CC0"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    assert lineage_of(tmp_path / "m.csv", tmp_path) == Lineage({"b": 3}, credits=("license",))


@pytest.mark.parametrize(
    ("pairs", "fault"),
    [
        ([("a", 0), ("b", 0)], "the classes 'a' and 'b' have one id"),
        ([("a", 0), ("a", 1)], "class 'a' has the ids 0 and 1"),
        ([("a", 0), ("b", None)], "class 'b' has no id from 0 to 99999"),
        ([("a", 0), ("b", 10**8)], "class 'b' has no id from 0 to 99999"),
    ],
)
def test_ids_that_contradict_each_other(pairs, fault):
    ids = ClassIds(pa.schema([("label", pa.string()), ("label_id", pa.int64())]))
    ids.add({"label": label, "label_id": number} for label, number in pairs)
    assert ids.found() == ({}, fault)


def test_a_hugging_face_folder_names_its_classes_and_its_licence(tmp_path):
    names = ["tench", "T-shirt/top", "ape"]
    features = datasets.Features(
        {"content_image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    (tmp_path / "set" / "data").mkdir(parents=True)
    for number in range(2):
        image = {"bytes": b"x", "path": None}
        rows = {"content_image": [image], "label": [number]}
        table = datasets.Dataset.from_dict(rows, features=features)
        table = table.add_column("style_uri", ["s.png"])
        table.to_parquet(tmp_path / "set" / "data" / f"train-{number:05d}-of-00002.parquet")
    head = "license: [cc-by-4.0]\r\nlicense_name: ours\r\ntags: [x]\r\n"
    (tmp_path / "set" / "README.md").write_text(f"---\r\n{head}---\r\n# Set\r\n", newline="")
    for place in ("set", "set/data"):
        found = lineage_of(tmp_path / place, tmp_path)
        assert found.ids == {"0": 0, "1": 1, "2": 2}
        assert found.names == tuple(names)
        assert found.licences == {"content": {"license": ["cc-by-4.0"], "license_name": "ours"}}
        assert lineage.from_json(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize(
    "text",
    ["", "# Title", "---\nlicense: [\n---\n", "---\nlicense: {a: 1}\n---\n", "---\n- a\n---\n",
     "---\nlicense: ''\n---\n", "---\nlicense: mit\n", "\xff"],
)  # fmt: skip
def test_cards_that_tell_no_licence(tmp_path, text):
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert lineage.card_fields(str(tmp_path), {}) == {}


@pytest.mark.parametrize(
    "recipe",
    ["[", "[]", '{"licences": 1, "class_list": 1}', '{"licences": {"content": {"license": {}}}}',
     '{"licences": {"content": 1}, "class_list": {"names": 1, "labels": []}}',
     '{"class_list": {"names": ["x", "x"], "labels": ["b", "c"]}}'],
)  # fmt: skip
def test_a_recipe_of_another_form_says_nothing(tmp_path, recipe):
    (tmp_path / "m").mkdir()
    write(tmp_path / "m" / "m.parquet", label=["b", "c"], label_id=[0, 1])
    (tmp_path / "m" / "_manifest.json").write_text(recipe)
    assert lineage_of(tmp_path / "m", tmp_path) == Lineage({"b": 0, "c": 1})


def test_an_output_of_two_manifests_keeps_what_both_say():
    one = Lineage({"a": 0, "b": 1}, ("A", "B"), ("license",), {"content": {"license": "mit"}})
    two = Lineage({"c": 2}, (), ("author",), {"style": {"license": "cc0-1.0"}})
    both = two.after(one)
    assert both.ids == {"a": 0, "b": 1, "c": 2}
    assert both.credits == ("license", "author")
    assert both.licences.keys() == {"content", "style"}
    assert Lineage({"d": 0}).after(one).ids == {"d": 0}
    assert one.after(Lineage()) == one


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        {"ids": []},
        {"ids": {"a": "x"}, "names": []},
        *(
            {"ids": {"a": number}, "names": [], "credits": [], "licences": {}}
            for number in (math.inf, math.nan, 10**12, -5)
        ),
    ],
)
def test_a_job_file_of_another_form_says_nothing(found):
    assert lineage.from_json(found) == Lineage()
