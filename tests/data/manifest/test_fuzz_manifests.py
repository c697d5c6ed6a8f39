"""Any Parquet file is refused as a whole, or gives one row of the plan for each of its rows."""

import datetime
import itertools
import json
import math
import os
import posixpath
import random
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.manifest.columns import as_numbers
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.manifest.planning import write_plan
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.schemas import OWN_COLUMNS
from pipeline.settings import StyleSettings, replace

examples_tried = settings(max_examples=150)

TRICKS = (
    "..", ".", "../x", "a/b", "/etc/passwd", "a\\b", "C:\\x", "CON", "nul.png", "con", "x.", "x ",
    " x", "", "\0", "a\0b", "a\nb", "x" * 300, "é" * 101, "~root", "-rf", "--", "__plan__", "_x",
    "metadata.parquet", "Metadata.PARQUET", ".hidden", "x.png", "X.PNG", "x.png.png", "x", "X",
    "\u212a", "k", "K", "ß", "ss", "ẞ", "\u0130", "i\u0307", "가", "\u1100\u1161", "\u202egnp",
    "\uf900", "\u8c48", "ﬁ", "fi", "%2e%2e", "a%2fb", "$HOME", "`id`", "*", "?", "a:b", "a|b", "😀",
    "nan", "None", "1", "1.0", "\ufeffx", "x\u200b", "\u2028", "é", "e\u0301", "\u0301e", "x\ufe0f",
    "हिन्दी", "/\u0338", "..\u0301", "_\u0301_x", "x\u0345", "x\u03b9", "e\u0301" * 67,
)  # fmt: skip
URIS = (
    "c.png", "d.png", "../../c.png", "s3://bucket/c.png", "http://10.0.0.1/x", "file:///etc/passwd",
    "a::b", "https://[x/y", "://", "s3://", "memory://x", "", "\0", "C:\\x", "~", "a?b#c", "\ud7ff",
)  # fmt: skip

text = st.text(max_size=8) | st.sampled_from(TRICKS)
whole = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 600)
number = (
    st.floats()
    | st.sampled_from([math.inf, -math.inf, math.nan, 2.0**70])
    | st.floats(0, 600)
    | st.integers(0, 600).map(float)
)
when = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))
days = st.timedeltas(datetime.timedelta(-9999), datetime.timedelta(9999))
tagged = pa.struct([("a", pa.string()), ("b", pa.list_(pa.int64()))])

CELLS = {
    pa.string(): text,
    pa.large_string(): text,
    pa.string_view(): text,
    pa.dictionary(pa.int32(), pa.string()): text,
    pa.int64(): whole,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): number,
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16),
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=5),
    pa.decimal128(38, 4): st.decimals(-(10**9), 10**9, places=4, allow_nan=False),
    pa.decimal256(70, 0): st.integers(-(10**69), 10**69),
    pa.date32(): st.dates(),
    pa.time64("ns"): st.integers(0, 86_400 * 10**9 - 1),
    pa.duration("us"): days,
    pa.timestamp("us"): when,
    pa.timestamp("ns"): st.integers(-(2**63) + 1, 2**63 - 1),
    pa.timestamp("s"): st.integers(-(2**40), 2**40),
    pa.timestamp("us", "UTC"): when,
    pa.timestamp("us", "Nowhere/City"): when,
    pa.null(): st.none(),
    pa.list_(pa.string()): st.lists(st.none() | text, max_size=3),
    pa.list_view(pa.large_string()): st.lists(st.none() | text, max_size=3),
    pa.list_(pa.dictionary(pa.int8(), pa.string())): st.lists(st.none() | text, max_size=3),
    pa.large_list(pa.float64()): st.lists(st.none() | number, max_size=3),
    pa.list_(pa.int64(), 2): st.lists(whole, min_size=2, max_size=2),
    pa.list_(pa.float64()): st.lists(st.none() | number, max_size=3),
    pa.list_(pa.list_(pa.bool_())): st.lists(st.lists(st.booleans(), max_size=2), max_size=2),
    tagged: st.fixed_dictionaries({"a": st.none() | text, "b": st.lists(whole, max_size=2)}),
    pa.map_(pa.string(), pa.int64()): st.lists(st.tuples(text, whole), max_size=2),
}
"""Values by the type of their column."""

FITTING = {
    "style_blend": [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.int64(), 2)],
    "image_size": [pa.int64(), pa.float64(), pa.decimal128(38, 4)],
    "seed": [pa.int64(), pa.uint64(), pa.decimal256(70, 0)],
    "iterations": [pa.int64(), pa.float64(), pa.int8()],
    "content_weight": [pa.float64(), pa.decimal128(38, 4), pa.int64()],
}
"""Types that an own column may well have; the others are texts."""

TEXTS = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
TEXTS_OR_NOTHING = [*TEXTS, pa.null()]


@st.composite
def tables(draw, uri_types=TEXTS_OR_NOTHING) -> pa.Table:
    """A manifest with the two columns that are required, and any others of any types."""
    rows = draw(st.integers(1, 6))

    def column(kind: pa.DataType, cells: st.SearchStrategy) -> pa.Array:
        values = draw(st.lists(st.none() | cells, min_size=rows, max_size=rows))
        return pa.array(values, kind)

    uris = st.sampled_from(URIS) | st.sampled_from(URIS[:4])
    cells = {kind: uris if kind in TEXTS else CELLS[kind] for kind in uri_types}
    content, style = (draw(st.sampled_from(uri_types)) for _ in range(2))
    columns = {"content_uri": column(content, cells[content])}
    if draw(st.booleans()):
        columns["style_uri"] = column(pa.list_(pa.string()), st.lists(st.none() | uris, max_size=3))
    else:
        columns["style_uri"] = column(style, cells[style])
    own = draw(st.lists(st.sampled_from(OWN_COLUMNS[2:]), unique=True, max_size=5))
    for name in own:
        likely = st.sampled_from(FITTING.get(name, TEXTS))
        kind = draw(likely | likely | likely | st.sampled_from(list(CELLS)))
        columns[name] = column(kind, CELLS[kind])
    names = text | st.sampled_from(["width", "__result", "fault_class", "pair", "manifest_width"])
    for name in draw(st.lists(names, unique=True, max_size=3)):
        kind = draw(st.sampled_from(list(CELLS)))
        columns.setdefault(name, column(kind, CELLS[kind]))
    return pa.table(columns)


class Planned:
    """A table written, opened and planned, or why it was refused."""

    def __init__(self, folder, table: pa.Table) -> None:
        source, target = str(folder / "m.parquet"), str(folder / "plan")
        self.table, self.rows, self.refusal = table, [], ""
        pq.write_table(table, source)
        checker = RowChecker("/data", "f", frozenset({"file", "s3"}))
        try:
            manifest = open_manifest(source, {})
            self.plan = write_plan(manifest, target, {}, checker=checker, limit=None)
        except ManifestError as error:
            self.refusal = str(error)
            return
        self.carried, self.extra = manifest.carried, manifest.extra
        rows = pq.read_table(target).to_pylist()
        self.rows = sorted(rows, key=lambda row: row["manifest_row"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def on_a_careless_file_system(stem: str) -> str:
    """Two stems that give the same here are one file on macOS: letters' case and composition."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", stem).casefold())


def check_rows(planned: Planned) -> None:
    rows = planned.rows
    assert [row["manifest_row"] for row in rows] == [*range(planned.table.num_rows)]
    assert planned.plan.rows == len(rows)
    assert planned.plan.faulty == sum(row["fault_class"] is not None for row in rows)
    assert len({row["pair_id"] for row in rows}) == len(rows)
    stems = [row["file_stem"] for row in rows if row["fault_class"] is None]
    assert len({on_a_careless_file_system(stem) for stem in stems}) == len(stems)
    for row in rows:
        assert isinstance(row["pair_id"], str)
        if row["fault_class"] is None:
            check_sound_row(row)
        else:
            assert row["file_stem"] is None
            assert row["fault_message"].startswith(f"manifest row {row['manifest_row']}: ")
            assert len(row["fault_message"].splitlines()) == 1
            assert len(row["fault_message"]) < 1000


def check_sound_row(row) -> None:
    images = "/output/images"
    path = posixpath.normpath(posixpath.join(images, row["file_stem"] + ".png"))
    assert path == f"{images}/{row['file_stem']}.png"
    for part in path.removeprefix(images + "/").split("/"):
        assert part.isprintable()
        assert unicodedata.category(part[0])[0] != "M"
        assert 0 < len(os.fsencode(part)) <= 210
        assert not set(part) & set('\\/:*?"<>|')
        assert not part.startswith((".", "-", "~", " ", "__"))
        assert part.casefold() != "metadata.parquet"
    assert row["content_uri"].startswith(("/", "s3://", "file://"))
    assert row["style_uri"]
    assert len(row["style_blend"]) == len(row["style_uri"])
    replace(StyleSettings(), **json.loads(row["overrides"]))


def check_carried(planned: Planned) -> None:
    unknown = set(planned.table.column_names) - set(OWN_COLUMNS)
    assert set(planned.carried.values()) == unknown
    for new, old in planned.carried.items():
        numbers = as_numbers(planned.extra).field(new).type  # of dates and times
        given = planned.table[old].cast(planned.extra.field(new).type).cast(numbers)
        assert repr([row[new] for row in planned.rows]) == repr(given.to_pylist())


def test_each_row_is_planned_or_the_manifest_is_refused(folder):
    planned_ones = itertools.count()

    @examples_tried
    @given(tables())
    def check(table):
        planned = Planned(folder, table)
        if planned.refusal:
            assert planned.refusal.startswith(f"manifest {folder}/m.parquet: ")
            assert len(planned.refusal.splitlines()) == 1
            return
        next(planned_ones)
        check_rows(planned)
        check_carried(planned)

    check()
    assert next(planned_ones) > 60  # most are not refused


@pytest.mark.parametrize(
    ("columns", "end"),
    [
        ({"image_size": [math.inf, math.nan, 256.0]}, [1, 0, 0]),
        ({"content_weight": [math.inf, -0.0, 1e300]}, [1, 0, 1]),
        ({"pair_id": ["가", "\u1100\u1161"]}, "have the same image file"),
        ({"pair_id": ["\uf900", "\u8c48"]}, "have the same image file"),
        ({"pair_id": ["ß", "SS"]}, "have the same image file"),
        ({"pair_id": ["é", "E\u0301"]}, "have the same image file"),
        ({"pair_id": ["e\u0323\u0301", "e\u0301\u0323"]}, "have the same image file"),
        ({"pair_id": ["", ""]}, "have the same pair_id ''"),
        ({"pair_id": [math.nan, 7.0]}, [0, 0]),
        ({"pair_id": ["a", "b"], "label": [math.nan, 7.0]}, [0, 0]),
        ({"label": ["Metadata.PARQUET"]}, [1]),
        ({"content_uri": ["https://a\nb/" + "x" * 5000]}, [1]),
        ({"style_blend": [[1.0] * 5000]}, [1]),
        ({"preserve_color": ["x" * 5000]}, [1]),
        ({"x": pa.array([2**40], pa.timestamp("s"))}, [0]),
        ({"label": pa.array([2**40], pa.timestamp("s"))}, "column 'label' of m.parquet cannot be"),
    ],
)
def test_what_was_found_stays_found(folder, columns, end):
    rows = len(next(iter(columns.values())))
    uris = {"content_uri": [f"{i}.png" for i in range(rows)], "style_uri": ["s.png"] * rows}
    planned = Planned(folder, pa.table({**uris, **columns}))
    if isinstance(end, str):
        assert end in planned.refusal
    else:
        assert [row["fault_class"] is not None for row in planned.rows] == end
        check_rows(planned)


@examples_tried
@given(st.data())
def test_a_table_of_any_columns_is_planned_or_refused(folder, data):
    table = data.draw(tables(uri_types=list(CELLS)))
    keep = data.draw(st.lists(st.sampled_from(table.column_names), max_size=9))  # twice, too
    places = [table.column_names.index(name) for name in keep]
    table = pa.Table.from_arrays([table.column(i) for i in places], names=keep)
    planned = Planned(folder, table)
    assert planned.refusal or len(planned.rows) == table.num_rows


@examples_tried
@given(tables(), st.randoms(use_true_random=False))
def test_derived_ids_do_not_depend_on_the_order_of_rows(folder, table, shuffler):
    if "pair_id" in table.column_names:
        table = table.drop_columns("pair_id")
    order = list(range(table.num_rows))
    shuffler.shuffle(order)
    first = Planned(folder, table)
    second = Planned(folder, pa.concat_tables(table.slice(place, 1) for place in order))
    assert bool(first.refusal) == bool(second.refusal)
    for place, row in enumerate(second.rows):
        before = first.rows[order[place]]
        if before["fault_class"] is None:
            assert row["pair_id"] == before["pair_id"]


def test_a_damaged_file_is_refused(folder):
    rows = [{"content_uri": "c.png", "style_uri": "s.png", "pair_id": f"p{i}"} for i in range(50)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "m.parquet")
    sound = (folder / "m.parquet").read_bytes()
    rng = random.Random(3)
    for _ in range(200):
        damaged = bytearray(sound[: rng.choice((len(sound), rng.randrange(1, len(sound))))])
        for _ in range(rng.choice((1, 4, 40))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (folder / "m.parquet").write_bytes(damaged)
        checker = RowChecker("/data", "f", frozenset({"file"}))
        try:
            manifest = open_manifest(str(folder / "m.parquet"), {})
            plan = write_plan(manifest, str(folder / "plan"), {}, checker=checker, limit=None)
        except ManifestError:
            continue
        assert plan.rows == pq.read_table(folder / "plan").num_rows
