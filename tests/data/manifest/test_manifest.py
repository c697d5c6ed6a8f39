import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.ids import hash_ids
from pipeline.data.manifest import manifest as manifests
from pipeline.data.manifest import planning
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.manifest.planning import write_plan
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.names import SPLIT_WORD, digest_of, is_name
from pipeline.engine.stages import blocks, storing
from tests.conftest import write_parquet
from tests.test_redaction import CONTEXT

ROW = {"content_uri": "c.png", "style_uri": "s.png"}


def checker(fingerprint="f"):
    return RowChecker("/data", fingerprint, frozenset({"file", "s3"}))


def plan_of(tmp_path, rows, limit=None, **options):
    source = write_parquet(tmp_path / "m.parquet", rows)
    manifest = open_manifest(source, {})
    plan = write_plan(
        manifest,
        str(tmp_path / "plan"),
        {},
        checker=checker(**options),
        limit=limit,
    )
    planned = pq.read_table(tmp_path / "plan").to_pylist()
    return plan, sorted(planned, key=lambda row: row["manifest_row"])


def test_rows_are_brought_into_one_form(tmp_path):
    plan, (first, second) = plan_of(
        tmp_path,
        [
            {**ROW, "pair_id": "a", "style_uri": ["s.png", "s3://b/t.png"], "style_blend": [2, 1],
             "output_name": "cat.PNG", "label": 7, "split": "train", "seed": 3, "width": 99,
             "image_size": 96},
            {**ROW, "pair_id": None, "style_uri": ["s.png"], "style_blend": None,
             "output_name": None, "label": None, "split": None, "seed": None, "width": None,
             "image_size": None},
        ],
    )  # fmt: skip
    assert (plan.rows, plan.faulty) == (2, 0)
    assert plan.shapes == {(96, 2), (None, 1)}
    assert plan.split_words == (0, ""), "a split's own folder is no such word"
    assert first["content_uri"] == "/data/c.png"
    assert first["style_uri"] == ["/data/s.png", "s3://b/t.png"]
    assert first["style_blend"] == [2.0, 1.0]
    assert first["file_stem"] == "train/7/cat"
    assert first["overrides"] == '{"image_size": 96, "seed": 3}'
    assert first["manifest_width"] == 99  # 'width' is a record's own
    assert second["style_blend"] == [1.0]
    assert second["file_stem"] == second["pair_id"]


def test_folders_named_as_hive_does_are_columns_of_strings(tmp_path):
    for split, label in (("train", "0"), ("train", "cat"), ("val", "1")):
        folder = tmp_path / "x=1" / "m" / f"split={split}" / f"label={label}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({k: [v] for k, v in ROW.items()}), folder / "p.parquet")
    manifest = open_manifest(str(tmp_path / "x=1" / "m"), {})
    slices = planning.planned_slices(manifest, checker(), None)
    found = [(row["split"], row["label"]) for rows in slices for row in rows]
    assert found == [("train", "0"), ("train", "cat"), ("val", "1")]
    alone = open_manifest(str(folder / "p.parquet"), {})
    (rows,) = planning.planned_slices(alone, checker(), None)
    assert rows[0]["split"] is None, "a file is what it says itself"


def test_a_column_in_a_file_and_in_the_name_of_its_folder_is_refused(tmp_path):
    for name, more in (("label=cat", {"note": "x"}), ("la%62el=7", {"label": 7}), ("split", {})):
        (tmp_path / "m" / name).mkdir(parents=True)
        write_parquet(tmp_path / "m" / name / "p.parquet", [ROW | more])
    message = r"/m: column 'label' is in la%62el=7/p\.parquet and in the name of its folder; remove"
    with pytest.raises(ManifestError, match=message):
        open_manifest(str(tmp_path / "m"), {})
    (tmp_path / "m" / "la%62el=7" / "p.parquet").unlink()
    write_parquet(tmp_path / "m" / "split" / "p.parquet", [ROW | {"label": "dog"}])
    slices = planning.planned_slices(open_manifest(str(tmp_path / "m"), {}), checker(), None)
    assert [row["label"] for rows in slices for row in rows] == ["cat", "dog"]


def test_what_all_files_say_themselves_is_taken_from_them(tmp_path):
    """Some libraries write the folders' columns into the files as well."""
    for split, label in (("train", "cat"), ("val", "dog")):
        folder = tmp_path / "m" / f"split={split}" / f"label={label}"
        folder.mkdir(parents=True)
        write_parquet(folder / "p.parquet", [ROW | {"label": f"a {label}"}])
    slices = planning.planned_slices(open_manifest(str(tmp_path / "m"), {}), checker(), None)
    found = [(row["split"], row["label"]) for rows in slices for row in rows]
    assert found == [("train", "a cat"), ("val", "a dog")]


CATEGORY = pa.dictionary(pa.int8(), pa.string())
TEXTS = (pa.string(), pa.large_string(), pa.string_view(), CATEGORY)
LISTS = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)


def write_styles(path, text, wrap, rows) -> None:
    """So many rows whose texts are of one type, and their lists of another."""
    texts = [f"{path.stem}-{number}" for number in range(rows)]
    columns = {
        "content_uri": pa.array(texts, text),
        "style_uri": pa.array([[name] for name in texts], wrap(text)),
        "note": pa.array([{"a": name, "b": [name]} for name in texts], deep(text, wrap)),
    }
    pq.write_table(pa.table(columns), path)


def deep(text, wrap):
    return pa.struct([("a", text), ("b", wrap(text))])


def check_styles(tmp_path, source, rows) -> None:
    manifest = open_manifest(str(source), {})
    assert manifest.extra.field("note").type == deep(pa.string(), pa.list_)
    plan = write_plan(manifest, str(tmp_path / "plan"), {}, checker=checker(), limit=None)
    assert (plan.rows, plan.faulty) == (rows, 0)
    for row in pq.read_table(tmp_path / "plan").to_pylist():
        name = row["note"]["a"]
        assert row["content_uri"] == f"/data/{name}"
        assert (row["style_uri"], row["note"]["b"]) == ([f"/data/{name}"], [name])


@pytest.mark.parametrize("text", TEXTS, ids=str)
@pytest.mark.parametrize("wrap", LISTS)
def test_texts_and_lists_may_be_of_any_of_arrows_types(tmp_path, text, wrap):
    write_styles(tmp_path / "m.parquet", text, wrap, 2)
    check_styles(tmp_path, tmp_path / "m.parquet", 2)


def test_files_may_have_different_types_for_texts_and_lists(tmp_path):
    """Those of pandas, polars and DuckDB side by side."""
    (tmp_path / "m").mkdir()
    for number, text in enumerate(TEXTS):
        for wrap in LISTS:
            name = f"{number}-{wrap.__name__}.parquet"
            write_styles(tmp_path / "m" / name, text, wrap, 100)  # int8 cannot count all of them
    check_styles(tmp_path, tmp_path / "m", 1600)


def test_bytes_and_maps_may_differ_in_their_types_as_well(tmp_path):
    (tmp_path / "m").mkdir()
    kinds = zip((pa.binary(), pa.large_binary(), pa.binary_view()), TEXTS[1:], strict=True)
    for number, (binary, text) in enumerate(kinds):
        columns = {name: [f"{number}.png"] for name in ROW}
        columns["seal"] = pa.array([b"x"], binary)
        columns["tags"] = pa.array([[("k", "v")]], pa.map_(pa.string(), text))
        pq.write_table(pa.table(columns), tmp_path / "m" / f"{number}.parquet")
    manifest = open_manifest(str(tmp_path / "m"), {})
    slices = planning.planned_slices(manifest, checker(), None)
    found = [(row["seal"], row["tags"]) for rows in slices for row in rows]
    assert found == [(b"x", [("k", "v")])] * 3


def test_derived_ids_depend_on_what_changes_pixels(tmp_path):
    rows = [ROW, {**ROW, "seed": 1}, {**ROW, "style_uri": "t.png"}]
    rows = [{"seed": None, **row} for row in rows]
    ids = [row["pair_id"] for row in plan_of(tmp_path, rows)[1]]
    assert len(set(ids)) == 3
    assert ids == [row["pair_id"] for row in plan_of(tmp_path, rows)[1]]
    other = [row["pair_id"] for row in plan_of(tmp_path, rows, fingerprint="g")[1]]
    assert not set(ids) & set(other)


SIGNED = {
    "Amazon": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F{0}&X-Amz-Date={0}"
    "&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Security-Token=t{0}&X-Amz-Signature={0}",
    "Amazon, version 2": "AWSAccessKeyId=A{0}&Signature={0}%3D&Expires={0}",
    "CloudFront": "Expires={0}&Signature={0}&Key-Pair-Id=K{0}",
    "Google": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=c{0}&X-Goog-Date={0}"
    "&X-Goog-Expires=60&X-Goog-SignedHeaders=host&x-goog-signature={0}",
    "Google, version 2": "GoogleAccessId=a@b&Expires={0}&Signature={0}",
    "Azure": "sv=2022-11-02&st={0}&se={0}&sr=b&sp=r&sig={0}%3D",
}


def derived_id(content, style="s.png"):
    return checker()({"content_uri": content, "style_uri": style}, 0)["pair_id"]


@pytest.mark.parametrize("name", SIGNED)
def test_a_manifest_that_is_signed_anew_asks_for_the_same_pairs(name):
    first, second = (SIGNED[name].format(time) for time in (1, 2))
    uri = "https://user:{}@h/c.png?{}"
    assert derived_id(uri.format("a", first)) == derived_id(uri.format("b", second))
    assert derived_id("c", uri.format("a", first)) == derived_id("c", uri.format("b", second))
    assert derived_id(f"https://h/c.png?{first}") == derived_id("https://h/c.png")
    five, six = (f"https://h/c.png?id={number}&{first}&v=1" for number in (5, 6))
    assert derived_id(five) != derived_id(six)
    assert derived_id(five) == derived_id("https://h/c.png?id=5&v=1")


def test_what_is_no_signature_stays_in_a_derived_id():
    """Ids of earlier outputs, made from addresses to the letter."""
    mark = ["s.png"], None, "{}", None, "f"
    for uri in (
        "c.png", "s3://b/c.png?sv=1&sig=2", "https://h/c.png?id=5", "https://h/c.png?id=6",
        "https://h/c.png?", "https://h/c.png#a?b", "https://h/c.png?st=1&se=2&sp=3",
        "https://h/c.png?Expires=1", "https://h/c.png?Signature=1", "https://h?sig=1&v=2",
        "https://h?to=a@b", "https://h/c\nd?a=1#e\nf",
        "abfs://box@account/c.png", "/data/a?sv=1&sig=2.png",
    ):  # fmt: skip
        text = json.dumps([uri, *mark])
        digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        assert digest_of(derived_id(uri)) == digest, uri


NAMED = {
    ("photos/cat 1.v2.jpg", "art/night.png", None): "cat-1-v2--night",
    ("c.png", ("art/night.png", "sea.jpg"), "cats"): "cats--c--night+sea",
    ("s3://b/a/ILSVRC2012_val_007.JPEG", "s.png", "train"): "ILSVRC2012_-_007--s",
    ("https://u:pass@h/c%20d.png?X-Amz-Signature=S&id=a/b.png", "s.png", None): "c-d--s",
    ("https://h", "u:pass@h", None): "h",
    ("/data/Ärger/e\u0301té.png", "हिन्दी.png", "ไทย ที่"): "ไทย-ที่--été--हिन्दी",
    ("\u0301a.png", "__b__.png", "-"): "a--b",
    (".png", "//", "/"): "png",
    ("x" * 300, "é" * 300, "y" * 300): f"{'y' * 36}--{'x' * 66}--{'é' * 33}",
    ("a" * 65 + "e\u0323\u0307.png", "s", None): f"{'a' * 65}--s",
}


@pytest.mark.parametrize("given", NAMED)
def test_a_derived_id_says_what_the_pair_is_made_of(given):
    """And is a safe name, without a password or a word that is taken for a split."""
    content, styles, label = given
    row = {"content_uri": content, "style_uri": styles, "label": label}
    name = checker()(row, 0)["pair_id"]
    assert name == f"{NAMED[given]}--{digest_of(name)}"
    assert len(digest_of(name)) == 20
    assert is_name(name)
    assert not SPLIT_WORD.search(name)


@pytest.mark.parametrize(
    ("change", "error_class", "message"),
    [
        ({"content_uri": None}, "bad_row", "row 1: content_uri: is null"),
        ({"style_uri": None}, "bad_row", "row 1: style_uri: is null"),
        ({"content_uri": ""}, "bad_row", "row 1: content_uri: is null or empty"),
        (
            {"content_uri": "http://10.0.0.1/x"},
            "scheme_not_allowed",
            "scheme 'http' is not allowed",
        ),
        (
            {"style_uri": "a::b"},
            "scheme_not_allowed",
            r"a::b: chained URIs \(::\) are not supported",
        ),
        ({"pair_id": "../../etc/x"}, "bad_name", "pair_id: '../../etc/x' cannot be a file name"),
        ({"pair_id": "a/b"}, "bad_name", "pair_id: 'a/b'"),
        ({"pair_id": ".hidden"}, "bad_name", "pair_id: '.hidden'"),
        ({"pair_id": "x" * 201}, "bad_name", r"pair_id: 'x{80}\.\.\.' cannot be a file name"),
        ({"pair_id": "e\u0301" * 67}, "bad_name", "cannot be a file name"),  # 201 bytes
        ({"pair_id": "\u0301e"}, "bad_name", "cannot be a file name"),
        ({"pair_id": "e\ufe0f"}, "bad_name", r"pair_id: 'e\\U0000fe0f' cannot be a file name"),
        ({"pair_id": "a\nb"}, "bad_name", "cannot be a file name"),
        ({"output_name": "../x"}, "bad_name", "output_name: '../x'"),
        ({"output_name": "x/y"}, "bad_name", "output_name: 'x/y'"),
        ({"label": ".."}, "bad_name", "label: '..'"),
        ({"split": "a\\b"}, "bad_name", "split: "),
        ({"iterations": 0}, "bad_row", "iterations: 0 is out of range; range: 1 to 100000"),
        ({"image_size": 7}, "bad_row", "image_size: 7 is out of range"),
        (
            {"preserve_color": "maybe"},
            "bad_row",
            "preserve_color: 'maybe' is not one of: none, luminance, histogram$",
        ),
        ({"content_weight": -1.0}, "bad_row", "content_weight: -1.0"),
        ({"style_blend": [1.0, 2.0]}, "bad_row", "style_blend: .* does not fit 1 styles"),
        ({"style_blend": [0.0]}, "bad_row", "style_blend"),
        ({"style_blend": [-1.0]}, "bad_row", "style_blend"),
    ],
)
def test_a_bad_row_keeps_its_fault_and_the_others_go_on(tmp_path, change, error_class, message):
    good = {**ROW, "pair_id": "good", **dict.fromkeys(change)}
    good |= {key: ROW[key] for key in change if key in ROW} | {"pair_id": "good"}
    bad = {**ROW, "pair_id": "bad", **change}
    plan, (first, second) = plan_of(tmp_path, [good, bad])
    assert (plan.rows, plan.faulty) == (2, 1)
    assert plan.shapes == {(None, 1)}
    assert first["fault_class"] is None
    assert second["fault_class"] == error_class
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(second["fault_message"])


def test_letters_of_any_script_make_a_name(tmp_path):
    names = ["हिन्दी", "e\u0301", "ไทย ที่", "שָׁלוֹם", "தமிழ்", "a.\u0301b"]
    plan, rows = plan_of(tmp_path, [{**ROW, "pair_id": name, "label": name} for name in names])
    assert plan.faulty == 0
    assert {row["file_stem"] for row in rows} == {f"{name}/{name}" for name in names}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "pair_id": "a"}, {**ROW, "pair_id": "b"}, {**ROW, "pair_id": "a"}],
         "rows 0 and 2 have the same pair_id 'a'"),
        ([ROW, ROW], "rows 0 and 1 have the same pair_id"),
        ([{**ROW, "pair_id": "a", "output_name": "X"},
          {**ROW, "pair_id": "b", "output_name": "x.png"}],
         "rows 0 and 1 have the same image file 'x'"),
    ],
)  # fmt: skip
def test_rows_that_would_overwrite_each_other_end_the_job(tmp_path, rows, message):
    with pytest.raises(ManifestError, match=message):
        plan_of(tmp_path, rows)


def test_faults_of_the_manifest_name_it(tmp_path, s3):
    options, bucket = s3
    with pytest.raises(ManifestError, match=r"none\.parquet: does not exist"):
        open_manifest(str(tmp_path / "none.parquet"), {})
    with pytest.raises(ManifestError, match=r"s3://.*/none\.parquet: does not exist"):
        open_manifest(f"s3://{bucket}/none.parquet", options)
    (tmp_path / "empty.parquet").touch()
    with pytest.raises(ManifestError, match=r"empty\.parquet: the file is empty"):
        open_manifest(str(tmp_path / "empty.parquet"), {})
    (tmp_path / "text.parquet").write_text("content_uri,style_uri\n")
    with pytest.raises(ManifestError, match=r"text\.parquet: not Parquet, or cut off .*; write it"):
        open_manifest(str(tmp_path / "text.parquet"), {})
    (tmp_path / "mixed").mkdir()
    write_parquet(tmp_path / "mixed" / "a.parquet", [{**ROW, "seed": 1}])
    write_parquet(tmp_path / "mixed" / "b.parquet", [{**ROW, "seed": ["1"]}])
    with pytest.raises(ManifestError, match="mixed: a column has different types in its files"):
        open_manifest(str(tmp_path / "mixed"), {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ManifestError, match="holds no Parquet file"):
        open_manifest(str(tmp_path / "folder"), {})
    short = write_parquet(tmp_path / "short.parquet", [{"content_uri": "c.png"}])
    with pytest.raises(ManifestError, match="column 'style_uri' is missing; it has content_uri"):
        open_manifest(short, {})
    wrong = write_parquet(tmp_path / "wrong.parquet", [{"content_uri": 1, "style_uri": "s"}])
    with pytest.raises(ManifestError, match="column 'content_uri' holds int64"):
        open_manifest(wrong, {})
    schema = pa.schema([("content_uri", pa.string()), ("style_uri", pa.string())])
    pq.write_table(schema.empty_table(), tmp_path / "no_rows.parquet")
    manifest = open_manifest(str(tmp_path / "no_rows.parquet"), {})
    with pytest.raises(ManifestError, match="it has no rows"):
        write_plan(manifest, str(tmp_path / "p"), {}, checker=checker(), limit=None)


def test_equal_styles_come_together_and_chunks_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "CHUNK", 10)
    monkeypatch.setattr(planning, "SLICE", 4)
    rows = [{**ROW, "pair_id": f"p{i}", "style_uri": f"s{i % 3}.png"} for i in range(25)]
    plan, planned = plan_of(tmp_path, rows)
    assert plan.rows == len(planned) == 25
    files = sorted((tmp_path / "plan").iterdir())
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 5]
    styles = [row["style_uri"][0] for row in pq.read_table(files[0]).to_pylist()]
    assert styles == sorted(styles)
    assert plan.count_done(hash_ids(["p1", "p2", "elsewhere"])) == 2


def test_limit_takes_the_first_rows(tmp_path):
    rows = [{**ROW, "pair_id": f"p{i}"} for i in range(9)]
    plan, planned = plan_of(tmp_path, rows, limit=4)
    assert plan.rows == 4
    assert [row["pair_id"] for row in planned] == ["p0", "p1", "p2", "p3"]


def test_an_empty_list_of_styles_is_not_called_null(tmp_path):
    _, rows = plan_of(tmp_path, [{**ROW, "style_uri": []}, {**ROW, "style_uri": None}])
    assert "style_uri: is an empty list; give" in rows[0]["fault_message"]
    assert "style_uri: is null; give" in rows[1]["fault_message"]


def test_rows_without_a_uri_are_errors_each_of_its_own(tmp_path):
    rows = [ROW, {**ROW, "content_uri": None}, {**ROW, "content_uri": None}]
    plan, planned = plan_of(tmp_path, rows)
    assert plan.faulty == 2
    assert len({row["pair_id"] for row in planned}) == 3


def test_a_directory_of_files_that_differ(tmp_path):
    folder = tmp_path / "m.parquet"
    folder.mkdir()
    write_parquet(folder / "a.parquet", [{**ROW, "note": None}])
    write_parquet(folder / "b.parquet", [{**ROW, "note": "x", "seed": 4}])
    manifest = open_manifest(str(folder), {})
    write_plan(manifest, str(tmp_path / "plan"), {}, checker=checker(), limit=None)
    planned = pq.read_table(tmp_path / "plan").to_pylist()
    assert {(row["note"], row["overrides"]) for row in planned} == {
        (None, "{}"),
        ("x", '{"seed": 4}'),
    }
    (folder / "_notes.txt").write_text("Arrow does not read it")
    (folder / "more").mkdir()
    (folder / "more" / "README.txt").write_text("not Parquet")
    with pytest.raises(ManifestError, match=r": more/README\.txt in this folder is not Parquet"):
        open_manifest(str(folder), {})


def test_cells_that_pandas_made_floats_are_taken_as_integers(tmp_path):
    rows = [{**ROW, "image_size": 256.0, "seed": 2.5}, {**ROW, "image_size": float("nan")}]
    rows = [{"seed": None, **row} for row in rows]
    _, (first, second) = plan_of(tmp_path, rows)
    assert "seed: 2.5 is not a whole number" in first["fault_message"]
    assert second["overrides"] == "{}"
    _, (first,) = plan_of(tmp_path, [{**ROW, "image_size": 256.0}])
    assert first["overrides"] == '{"image_size": 256}'


def test_columns_with_the_stages_own_names_are_renamed(tmp_path):
    row = {**ROW, "__result": 1, "width": 2, "manifest_width": 3, "fault_class": "x"}
    _, (planned,) = plan_of(tmp_path, [row])
    carried = {name: value for name, value in planned.items() if name.startswith("manifest_")}
    del carried["manifest_row"]
    assert carried == {
        "manifest_result": 1,
        "manifest_width_": 2,
        "manifest_width": 3,
        "manifest_fault_class": "x",
    }
    assert planned["fault_class"] is None


def test_a_signed_manifest_lies_where_its_address_without_the_signature_does():
    signed = "https://host/sets/m.parquet?X-Amz-Signature=a/b&X-Amz-Credential=k/20250101/s3#c/d"
    assert manifests.base_of(signed, {}) == "https://host/sets"
    assert manifests.base_of("http://host/m.parquet", {}) == "http://host"


def test_a_malformed_uri_is_one_rows_fault(tmp_path):
    plan, _ = plan_of(tmp_path, [{**ROW, "content_uri": "https://[x/y.png"}, ROW])
    assert (plan.rows, plan.faulty) == (2, 1)


FAULTS = Path(__file__).parents[1] / "faults"


def test_dates_that_python_does_not_know_are_carried_as_they_are(tmp_path):
    """Through the plan, and through a block of records."""
    days = pa.array([2**31 - 1, 0], pa.int32())
    nanoseconds = pa.array([86_399_999_999_999, None], pa.int64())
    kinds = {
        "date": (days, pa.date32()),
        "time": (nanoseconds, pa.time64("ns")),
        "when": (pa.array([2**62 + 1, 1], pa.int64()), pa.timestamp("ns", "UTC")),
        "long": (nanoseconds, pa.duration("ns")),
        "deep": (
            pa.array([[{"a": [5, None], "b": [("k", 1)]}], None],
                     pa.list_(pa.struct([("a", pa.list_(pa.int64(), 2)),
                                         ("b", pa.map_(pa.string(), pa.int32()))]))),
            pa.list_(pa.struct([("a", pa.list_(pa.time64("ns"), 2)),
                                ("b", pa.map_(pa.string(), pa.date32()))])),
        ),
    }  # fmt: skip
    given = {name: numbers.cast(kind) for name, (numbers, kind) in kinds.items()}
    uris = {"content_uri": ["a.png", "b.png"], "style_uri": ["s.png"] * 2, "pair_id": ["a", "b"]}
    pq.write_table(pa.table({**uris, **given}), tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), {})
    plan = write_plan(manifest, str(tmp_path / "plan"), {}, checker=checker(), limit=None)
    assert (plan.rows, plan.faulty) == (2, 0)
    planned = pq.read_table(tmp_path / "plan").sort_by("manifest_row")
    context = dataclasses.replace(CONTEXT, extra=manifest.extra)
    board = SimpleNamespace(add=lambda *_: None, in_turn=lambda *_, **__: {})  # all have failed
    loaded = context.schema(*blocks.STYLIZED)
    failed = [{**row, "fault_class": "not_found"} for row in planned.to_pylist()]
    stored = storing.store(pa.Table.from_pylist(failed, schema=loaded), context, board)
    for name, values in given.items():
        assert stored[name].combine_chunks().equals(values), name


def test_a_date_that_never_comes_ends_no_job(tmp_path):
    manifest = open_manifest(str(FAULTS / "date_inf.parquet"), {})
    plan = write_plan(manifest, str(tmp_path / "plan"), {}, checker=checker(), limit=None)
    assert (plan.rows, plan.faulty) == (2, 0)
    assert manifest.extra.field("t").type == pa.date32()


def test_two_columns_of_one_name_are_named(tmp_path):
    with pytest.raises(ManifestError) as caught:
        open_manifest(str(FAULTS / "dupcol.parquet"), {})
    assert "dupcol.parquet has 2 columns called 'note'; rename them" in str(caught.value)
    (tmp_path / "b").mkdir()
    write_parquet(tmp_path / "b" / "a.parquet", [ROW])
    shutil.copy(FAULTS / "dupcol.parquet", tmp_path / "b" / "z.parquet")
    with pytest.raises(ManifestError, match=r"z\.parquet has 2 columns called 'note'"):
        open_manifest(str(tmp_path / "b"), {})


@pytest.mark.parametrize("column", ["content_weight", "style_weight"])
def test_weights_that_float32_cannot_tell_are_refused_by_their_range(tmp_path, column):
    weights = [1e20, 1e-22, 0.0, 1e-15, 1e15]
    rows = [{**ROW, "pair_id": str(n), column: weight} for n, weight in enumerate(weights)]
    _, planned = plan_of(tmp_path, rows)
    assert [row["fault_class"] for row in planned] == ["bad_row"] * 2 + [None] * 3
    assert f"{column}: 1e-22 is out of range; range: 0, or 1e-15 to" in planned[1]["fault_message"]
