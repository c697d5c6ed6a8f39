"""Manifests in CSV, TSV and JSON lines ask for what the same rows in Parquet ask for."""

import csv
import io
import json

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.manifest import planning, text_rows
from pipeline.data.manifest.manifest import ManifestError, base_of, open_manifest
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.storage import files
from pipeline.settings import JobSettings
from tests.conftest import write_parquet
from tests.web_server import Handler, serving

HEADER = "content_uri,style_uri\n"


def planned(source, form="auto", limit=None, options=None):
    options = options or {}
    manifest = open_manifest(str(source), options, form)
    checker = RowChecker(base_of(str(source), options), "f", frozenset({"file", "s3"}))
    slices = planning.planned_slices(manifest, checker, limit)
    rows = [row for some in slices for row in some]
    assert limit or manifest.rows == len(rows)
    return rows


def of_text(tmp_path, text, name="m.csv", **more):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return planned(path, **more)


def fault_of(tmp_path, text, name="m.csv"):
    """The message of the only row with a fault, the others being sound."""
    (bad,) = [row for row in of_text(tmp_path, text, name) if row["fault_class"]]
    assert bad["fault_class"] == "bad_row"
    return bad["fault_message"]


ROWS = [
    {"content_uri": "a b.png", "style_uri": '["s.png", "t,\\"x.png"]', "style_blend": "[2, 0.5]",
     "label": "7", "split": "train", "image_size": 96, "content_weight": 2.0, "seed": 3,
     "preserve_color": "luminance", "note": "two\nlines; \"so\"", "pair_id": None,
     "output_name": "x.png"},
    {"content_uri": "ü.png", "style_uri": "s|t.png", "style_blend": None, "label": "é",
     "split": "val", "image_size": 128, "content_weight": 0.5, "seed": 4,
     "preserve_color": "none", "note": "#", "pair_id": "007", "output_name": "y"},
]  # fmt: skip


def in_parquet(row):
    lists = {name: row[name] and json.loads(row[name]) for name in ("style_blend",)}
    styles = row["style_uri"]
    return {**row, **lists, "style_uri": json.loads(styles) if "[" in styles else [styles]}


def with_cells(rows, delimiter, **options):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


WRITERS = {
    "csv": lambda path: path.write_text(with_cells(ROWS, ",")),
    "excel.csv": lambda path: path.write_text(with_cells(ROWS, ";"), encoding="utf-8-sig"),
    "tabs.csv": lambda path: path.write_text(with_cells(ROWS, "\t")),
    "bars.csv": lambda path: path.write_text(with_cells(ROWS, "|", quoting=csv.QUOTE_ALL)),
    "unix.CSV": lambda path: path.write_text(with_cells(ROWS, ",", lineterminator="\n")),
    "old.csv": lambda path: path.write_text(with_cells(ROWS, ",", lineterminator="\r"), newline=""),
    "tsv": lambda path: path.write_text(with_cells(ROWS, "\t")),
    "pandas.csv": lambda path: pd.DataFrame(ROWS).to_csv(path),
    "pandas.tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, sep="\t", index=False),
    "pandas.jsonl": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
    "polars.csv": lambda path: pl.DataFrame(ROWS).write_csv(path),
    "polars.ndjson": lambda path: pl.DataFrame(
        [*map(in_parquet, ROWS)], strict=False
    ).write_ndjson(path),
    "duckdb.csv": lambda path: duckdb.from_arrow(pa.Table.from_pylist(ROWS)).write_csv(str(path)),
    "json.jsonl": lambda path: path.write_text(
        "\n\n".join(json.dumps(in_parquet(row)) for row in ROWS), encoding="utf-8-sig"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_the_same_rows_give_the_same_plan_in_any_form(name, tmp_path):
    WRITERS[name](tmp_path / f"m.{name}")
    expected = planned(write_parquet(tmp_path / "m.parquet", [*map(in_parquet, ROWS)]))
    found = planned(tmp_path / f"m.{name}")
    if name == "pandas.jsonl":  # a list in a text is JSON's own list in JSON lines
        found, expected = found[1:], expected[1:]
    assert found == expected
    assert {row["fault_class"] for row in found} == {None}


@pytest.mark.parametrize("said", ["True", "true", "TRUE "])
def test_an_original_is_one_in_a_text_file_too(said, tmp_path):
    row = {"content_uri": "a.png", "style_uri": None, "original": True}
    (expected,) = planned(write_parquet(tmp_path / "m.parquet", [row]))
    (found,) = of_text(tmp_path, f"content_uri,style_uri,original\na.png,,{said}\n")
    assert (found["fault_class"], found["style_uri"]) == (None, [])
    assert found["pair_id"] == expected["pair_id"]
    assert fault_of(tmp_path, "content_uri,style_uri,original\na.png,,False\n")


def test_a_file_behind_an_address_with_a_query_is_whole(tmp_path):
    """Servers that ignore what they do not know answer for every query."""

    class Server(Handler):
        def do_GET(self):
            data = f"{HEADER}a.png,b.png\n".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    with serving(Server) as server:
        manifest = open_manifest(f"{server.url}/m.csv?download=true", {})
        checker = RowChecker(f"{server.url}/", "f", frozenset({"http"}))
        ((row,),) = planning.planned_slices(manifest, checker, None)
    assert row["content_uri"] == f"{server.url}/a.png"


def test_carried_columns_of_json_lines_have_the_types_of_their_values(tmp_path):
    values = [
        {"i": 1, "f": 1, "b": True, "s": "x", "l": [1], "m": 1, "big": 2**70, "n": None},
        {"i": None, "f": 0.5, "b": False, "s": None, "l": {"a": "é"}, "m": "1", "x": "late"},
    ]
    lines = "\n".join(
        json.dumps({"content_uri": str(row["i"]), "style_uri": "s"} | row) for row in values
    )
    (tmp_path / "m.jsonl").write_text(lines)
    manifest = open_manifest(str(tmp_path / "m.jsonl"), {})
    assert {field.name: str(field.type) for field in manifest.extra} == {
        "i": "int64", "f": "double", "b": "bool", "s": "string", "l": "string", "m": "string",
        "big": "string", "n": "string", "x": "string",
    }  # fmt: skip
    plan = planning.write_plan(
        manifest, str(tmp_path / "plan"), {}, checker=RowChecker("/", "f", frozenset({"file"})),
        limit=None,
    )  # fmt: skip
    assert plan.rows == 2
    found = sorted(
        pq.read_table(tmp_path / "plan").to_pylist(), key=lambda row: row["manifest_row"]
    )
    assert [row["l"] for row in found] == ["[1]", '{"a": "é"}']
    assert [row["m"] for row in found] == ["1", "1"]
    assert found[0]["big"] == str(2**70)
    assert [row["x"] for row in found] == [None, "late"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,s.png\n,s.png\n", "line 3: content_uri: is null or empty; give a path or a URI"),
        ("a.png,s.png\n\n\nb.png,s.png,x\n", "line 5: has 3 cells, and the header has 2; quote"),
        ("a.png,s.png\nb.png\n", "line 3: has 1 cells, and the header has 2"),
        ('"a\n.png",s.png\nb.png,\n', "line 4: style_uri: is null; give a path or a URI"),
        ('a.png,"[""s.png"""\n', "line 2: style_uri: '[\"s.png\"' is not a text or a JSON list"),
        ('a.png,"[""s.png"", 1]"\n', "line 2: style_uri: ['s.png', 1] is not a text or a JSON"),
        ("a.png,[]\n", "line 2: style_uri: is an empty list"),
    ],
)
def test_a_bad_line_is_one_error_record_that_names_the_line(text, message, tmp_path):
    assert message in fault_of(tmp_path, HEADER + text)


@pytest.mark.parametrize(
    ("name", "cell", "message"),
    [
        ("image_size", "large", "image_size: 'large' is not a whole number; range: 32 to 8192 px"),
        ("image_size", "7", "image_size: 7 is out of range; range: 32 to 8192 px"),
        ("image_size", "nan", "image_size: 'nan' is not a whole number"),
        ("content_weight", "0.5.1", "content_weight: '0.5.1' is not a number"),
        ("preserve_color", "all", "preserve_color: 'all' is not one of: none, luminance, hist"),
        ("style_blend", "1|2", "style_blend: '1|2' is not a JSON list of numbers, [0.7, 0.3]"),
        ("style_blend", "2", "style_blend: 2 is not a JSON list of numbers"),
        ("style_blend", "[2, 1]", "style_blend: [2.0, 1.0] does not fit 1 styles"),
    ],
)
def test_cells_that_are_no_setting(name, cell, message, tmp_path):
    text = f'content_uri,style_uri,{name}\na.png,s.png,"{cell}"\n'
    assert fault_of(tmp_path, text).startswith(f"manifest line 2: {message}")


def test_cells_are_taken_as_their_columns_types(tmp_path):
    text = "content_uri, style_uri, image_size, content_weight, seed\na.png, [1].png, 96.0, 2, \n"
    (row,) = of_text(tmp_path, text)
    assert row["overrides"] == '{"content_weight": 2.0, "image_size": 96}'
    assert row["style_uri"] == [str(tmp_path / "[1].png")]


def test_empty_lines_are_no_rows_and_unnamed_columns_are_left_out(tmp_path):
    text = ",content_uri,style_uri,\n\n0,a.png,s.png,\n,,,\n1,b.png,s.png,x\n\n"
    rows = of_text(tmp_path, text)
    assert [row["manifest_row"] for row in rows] == [0, 1]
    assert "" not in rows[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "it has no header line"),
        (HEADER.encode(), "it has no rows"),
        (b"a,b\n1,2\n", "column 'content_uri' is missing; it has a, b"),
        (b"content_uri,content_uri,style_uri\n", "has 2 columns called 'content_uri'; rename"),
        ((HEADER + "a,s\ncaf\xe9,s\n").encode("latin-1"), r"line 3 is not UTF-8 \(byte 0xe9\); "
         r"save the file as UTF-8 \(Excel: 'CSV UTF-8'\), or convert it: iconv"),
        (HEADER.encode("utf-16"), "is UTF-16; save it as UTF-8"),
        (HEADER.encode() + b"a\0,s\n", "line 2 holds a null byte; is it a text file"),
        (HEADER.encode() + b'a,s\nb,"s\n' + b"c,s\n" * 9, "the row at line 3 cannot be read"),
        (HEADER.encode() + b'a,"s"x\n', "the row at line 2 cannot be read.*close each quote"),
        (HEADER.encode() + b"a" * 2**21, "line 2 has more than 1048576 characters"),
        (HEADER.encode() + b'a,"' + b"s\n" * 10**5, "the row at line 2 cannot be read"),
        (HEADER.encode() + b"a.png,s.png\n\na.png,s.png\n",
         r"rows 0 and 1 \(lines 2 and 4\) have the same pair_id"),
    ],
)  # fmt: skip
def test_what_ends_the_job_is_one_line(text, message, tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(text)
    with pytest.raises(ManifestError, match=message) as caught:
        planning.write_plan(
            open_manifest(str(path), {}), str(tmp_path / "plan"), {},
            checker=RowChecker("/", "f", frozenset({"file"})), limit=None,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert f"manifest {path}: " in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: is no JSON (Expecting property name"),
        ("[1]", "line 3: is no JSON object"),
        ("[" * 10**5, "line 3: is no JSON (maximum recursion depth exceeded"),
        ('{"content_uri": 5, "style_uri": "s"}', "line 3: content_uri: 5 is not a text"),
        ('{"content_uri": "c"}', "line 3: style_uri: is null; give a path or a URI"),
        ('{"content_uri": "c", "style_uri": {"a": 1}}', "line 3: style_uri: {'a': 1} is not a"),
        ('{"content_uri": "c", "style_uri": [[]]}', "line 3: style_uri: [[]] is not a text or a"),
        ('{"content_uri": "c", "style_uri": "s", "label": []}', "line 3: label: [] is not a text"),
        ('{"content_uri": "c", "style_uri": "s", "image_size": "96"}', "line 3: image_size: '96'"),
        ('{"content_uri": "c", "style_uri": "s", "note": "\\ud800"}', "line 3: holds half of a"),
        ('{"content_uri": "c", "style_uri": "s", "style_blend": ["a"]}', "line 3: style_blend: "),
    ],
)
def test_bad_json_lines(line, message, tmp_path):
    sound = '{"content_uri": "a", "style_uri": "s"}\n\n'
    assert fault_of(tmp_path, sound + line + "\n", "m.jsonl").startswith(f"manifest {message}")


def test_what_is_no_json_lines_ends_the_job(tmp_path):
    for text in ("content_uri,style_uri\na,s\n", '[\n{"content_uri": "a"}\n]', "5\n"):
        with pytest.raises(ManifestError, match=r"line 1 is no JSON.*each line must be"):
            of_text(tmp_path, text, "m.jsonl")
    with pytest.raises(ManifestError, match="it has no rows"):
        of_text(tmp_path, "\n\n", "m.ndjson")
    with pytest.raises(ManifestError, match="'content_uri' is missing; it has style_uri"):
        of_text(tmp_path, '{"style_uri": "s"}', "m.ndjson")


def test_the_form_by_its_ending_or_by_the_setting(tmp_path):
    text = HEADER + "a.png,s.png\n"
    assert len(of_text(tmp_path, text, "pairs.txt", form="csv")) == 1
    with pytest.raises(ManifestError, match=r"not Parquet.*by \.csv, \.tsv or \.jsonl, or by -"):
        of_text(tmp_path, text, "pairs.txt")
    with pytest.raises(ManifestError, match="not Parquet"):
        of_text(tmp_path, text, "pairs.csv", form="parquet")
    with pytest.raises(ManifestError, match="column 'content_uri' is missing"):
        of_text(tmp_path, text, "pairs.csv", form="tsv")
    with pytest.raises(ManifestError, match="is a folder; a manifest in csv is one file"):
        planned(tmp_path, form="csv")
    folder = tmp_path / "set.csv"
    folder.mkdir()
    write_parquet(folder / "x.parquet", [{"content_uri": "a", "style_uri": "s"}])
    assert len(planned(folder)) == 1
    assert JobSettings(manifest="m", output="o").manifest_format == "auto"


def test_a_limit_takes_the_first_rows_and_the_rest_is_counted(tmp_path):
    text = HEADER + "".join(f"{n}.png,s.png\n" for n in range(9))
    assert len(of_text(tmp_path, text, limit=4)) == 4
    manifest = open_manifest(str(tmp_path / "m.csv"), {})
    assert manifest.rows == 9


def test_a_manifest_on_s3_is_read_in_a_stream(s3, monkeypatch):
    options, bucket = s3
    monkeypatch.setattr(files, "CHUNK", 50)
    lines = "".join(f"{n}.png,s3://{bucket}/é.png\n" for n in range(50))
    files.write_bytes(f"s3://{bucket}/in/m.csv", (HEADER + lines).encode(), options)
    rows = planned(f"s3://{bucket}/in/m.csv", options=options)
    assert [row["content_uri"] for row in rows] == [f"s3://{bucket}/in/{n}.png" for n in range(50)]
    assert {row["fault_class"] for row in rows} == {None}


@settings(max_examples=200)
@given(
    st.binary(max_size=60) | st.text("abc,;\t|\"'\r\n[]{}:0é\ufeff\\", max_size=60).map(str.encode),
    st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_any_text_is_refused_in_one_line_or_gives_rows(tmp_path_factory, text, form):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{form}"
    head = b'{"content_uri": "c", "style_uri": "s"}\n' if form == "jsonl" else HEADER.encode()
    if form == "tsv":
        head = head.replace(b",", b"\t")
    path.write_bytes(head + text)
    refused = ""
    try:
        manifest = open_manifest(str(path), {})
        checker = RowChecker("/", "f", frozenset({"file"}))
        target = str(path.with_suffix(".plan"))
        planning.write_plan(manifest, target, {}, checker=checker, limit=None)
    except ManifestError as error:
        refused = str(error)
    assert "\n" not in refused


def test_lines_are_read_as_they_are_needed(tmp_path):
    """The file is not held in memory, and its end need not have come to read its beginning."""
    (tmp_path / "m.csv").write_text(HEADER + "a.png,s.png\n" * 10**5 + "caf\udce9,s\n",
                                    errors="surrogateescape")  # fmt: skip
    source = text_rows.TextRows(str(tmp_path / "m.csv"), {}, "csv")
    first = next(source.slices(100))
    assert list(first.lines) == [*range(2, 102)]
    with pytest.raises(ManifestError, match="line 100002 is not UTF-8"):
        source.count()


def test_a_long_cell_is_a_cell(tmp_path):
    long = "x" * 200_000
    (row,) = of_text(tmp_path, f"content_uri,style_uri,note\na.png,b.png,{long}\n")
    assert row["fault_class"] is None


def test_a_number_that_no_float_can_hold_is_one_error(tmp_path):
    huge = "1" + "0" * 400
    lines = [f'{{"content_uri": "a", "style_uri": "b", "content_weight": {weight}}}'
             for weight in (1, huge)]  # fmt: skip
    assert "content_weight: " in fault_of(tmp_path, "\n".join(lines), "m.jsonl")
