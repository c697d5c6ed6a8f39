"""Rows that ask for something else than an output has: every kind, and what is none."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.manifest.manifest import open_manifest
from pipeline.data.manifest.planning import write_plan
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.names import digest_of
from pipeline.data.output.clashes import COLUMNS, Clashes
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import tables
from pipeline.settings import ROW_OVERRIDES, SettingError, StyleSettings, replace
from tests.conftest import write_parquet

TROUBLE = Path(__file__).parents[3] / "docs/troubleshooting.md"
STYLE = StyleSettings()
ROW = {
    "content_uri": "c.png", "style_uri": "s.png", "style_blend": None, "pair_id": None,
    "output_name": None, "label": None, "split": None, "image_size": None, "note": None,
}  # fmt: skip
ROWS = [
    {**ROW, "pair_id": "cat"},
    {**ROW, "style_uri": "t.png", "output_name": "dog.png", "label": "b"},
    {**ROW, "pair_id": "web", "content_uri": "https://u:SECRET@h/c.png?SECRET"},
    {**ROW, "pair_id": "blend", "style_uri": ["s.png", "t.png"], "style_blend": [1.0, 2.0]},
]


def plan_of(tmp_path, rows, base="/data"):
    schemes = frozenset({"file", "https", "s3"})
    if any(isinstance(row["style_uri"], list) for row in rows):
        rows = [row | {"style_uri": styles_of(row)} for row in rows]
    manifest = open_manifest(write_parquet(tmp_path / "m.parquet", rows), {})
    checker = RowChecker(base, "f", schemes)
    write_plan(manifest, str(tmp_path / "plan"), {}, checker=checker, limit=None)
    return tables.read_table(str(tmp_path / "plan" / "part-00000.parquet"), {}).to_pylist()


def styles_of(row):
    return row["style_uri"] if isinstance(row["style_uri"], list) else [row["style_uri"]]


def recorded(plan, status="ok"):
    """Records of what a plan asks for, as a job writes them."""
    rows = []
    for row in plan:
        settings = replace(STYLE, **json.loads(row["overrides"]))
        named = {name: getattr(settings, name) for name in ROW_OVERRIDES}
        content = row["content_uri"].replace("u:SECRET@", "").replace("?SECRET", "")
        rows.append(
            {**row, "status": status, "file_name": f"images/{row['file_stem']}.png"}
            | {"content_uri": content, "settings": json.dumps(named)}
        )
    table = pa.Table.from_pylist(rows, schema=RECORD_SCHEMA)
    return table.select(COLUMNS).combine_chunks().to_batches()[0]


def refusal(tmp_path, rows, made, base="/data") -> str:
    plan_of(tmp_path, rows, base)
    clashes = Clashes(str(tmp_path / "plan"), {}, STYLE, base)
    clashes.look(made)
    try:
        clashes.refuse("s3://u:SECRET@b/out")
    except SettingError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, {"content_uri": "d.png"}, "row 0 has pair_id 'cat', whose image was made with "
         "content_uri = '/data/c.png', not '/data/d.png'; the job has not started: choose another"),
        (0, {"style_uri": "t.png"}, "with style_uri = ['/data/s.png'], not ['/data/t.png']"),
        (0, {"label": "x"}, "with label = None, not 'x'"),
        (0, {"split": "x"}, "with split = None, not 'x'"),
        (0, {"image_size": 64}, "with image_size = 512, not 64"),
        (1, {"style_uri": "u.png"}, "would overwrite images/b/dog.png, the image of"),
        (1, {"pair_id": "mine"}, "row 1 (pair_id 'mine') would overwrite images/b/dog.png"),
        (1, {"pair_id": "mine", "output_name": "DOG"}, "would overwrite images/b/dog.png"),
        (2, {"pair_id": "new", "output_name": "web"}, "row 2 (pair_id 'new') would overwrite"),
        (3, {"style_blend": [2.0, 1.0]}, "with style_blend = [1.0, 2.0], not [2.0, 1.0]"),
    ],
)  # fmt: skip
def test_a_row_that_asks_for_something_else_is_named(tmp_path, index, change, message):
    made = recorded(plan_of(tmp_path, ROWS))
    rows = [row | (change if number == index else {}) for number, row in enumerate(ROWS)]
    said = refusal(tmp_path, rows, made)
    assert said.startswith("output s3://b/out: manifest row")
    assert message in said
    assert "SECRET" not in said
    assert "\n" not in said


def test_what_asks_for_the_same_goes_on(tmp_path):
    made = recorded(plan_of(tmp_path, ROWS))
    assert refusal(tmp_path, ROWS, made) == ""
    grown = [{**ROW, "pair_id": "new"}, *ROWS[2:], *ROWS[:2]]  # in another order
    assert refusal(tmp_path, grown, made) == ""
    noted = [row | {"note": "seen", "image_size": 512} for row in ROWS if row["pair_id"]]
    assert refusal(tmp_path, noted, made) == ""
    signed = [ROWS[2] | {"content_uri": "https://h/c.png?X-Amz-Signature=SECRET"}]
    assert refusal(tmp_path, signed, made) == ""
    absolute = [ROWS[0] | {"content_uri": "/data/c.png"}]
    assert refusal(tmp_path, absolute, made) == ""
    failed = recorded(plan_of(tmp_path, ROWS), status="error")  # made nothing
    assert refusal(tmp_path, [ROWS[0] | {"content_uri": "mended.png"}], failed) == ""
    names = made.schema.names
    whole = made.set_column(  # as an earlier version wrote settings that were given so
        names.index("settings"),
        "settings",
        pa.array([text.replace('"style_weight": 1.0', '"style_weight": 1')
                  for text in made["settings"].to_pylist()]),
    )  # fmt: skip
    assert whole["settings"] != made["settings"]
    assert refusal(tmp_path, ROWS, whole) == ""
    # Refused now, as without --allow-schemes: it is done all the same.
    refused = [ROWS[2] | {"content_uri": "https://h/c.png", "label": None}]
    assert refusal(tmp_path, refused, made) == ""


def test_pictures_that_were_moved_can_be_named_in_the_records(tmp_path, monkeypatch):
    """By the lines that docs/troubleshooting.md gives."""
    folder = tmp_path / "out" / "records"
    folder.mkdir(parents=True)
    made = recorded(plan_of(tmp_path, ROWS, "/old/place"))
    pq.write_table(pa.Table.from_batches([made]), folder / "a.parquet")
    assert "/old/place" in refusal(tmp_path, ROWS, made, "s3://bucket/new")
    blocks = re.findall(r"```python\n(.*?)```", TROUBLE.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "/old/place" in block)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (made,) = pq.read_table(folder / "a.parquet").to_batches()
    assert refusal(tmp_path, ROWS, made, "s3://bucket/new") == ""


def test_all_are_counted_and_the_manifests_first_is_named(tmp_path):
    made = recorded(plan_of(tmp_path, ROWS))
    assert "row 0 (and 3 more rows) has pair_id 'cat'" in refusal(tmp_path, ROWS, made, "/moved")
    two = [ROWS[0] | {"label": "x"}, ROWS[3] | {"label": "x"}]
    assert "row 0 (and 1 more row) has" in refusal(tmp_path, two, made)


def test_pairs_that_an_earlier_version_named_otherwise_are_not_done_again(tmp_path):
    """Derived ids were a digest alone, and make_manifest's had single dashes."""
    made_by_us = {**ROW, "pair_id": "cat--night--0123456789abcdef", "content_uri": "d.png"}
    plan = plan_of(tmp_path, [ROW, made_by_us, ROWS[0]])
    ids = [row["pair_id"] for row in plan]
    for place, old in ((0, digest_of(ids[0])), (1, "cat-night-0123456789abcdef")):
        was = [{**row, "pair_id": old, "file_stem": old} for row in plan if row is plan[place]]
        text = refusal(tmp_path, [ROW, made_by_us, ROWS[0]], recorded(was))
        assert f"manifest row {place} (pair_id '{ids[place]}') is done there as '{old}', " in text
        assert "an earlier version named it, and would be done again; " in text
        assert refusal(tmp_path, [ROW, made_by_us], recorded(was, "error")) == ""
        other = [{**row, "style_uri": ["/data/t.png"]} for row in was]  # a user's own digests
        assert refusal(tmp_path, [ROW, made_by_us], recorded(other)) == ""
