"""Blocks as rows and back: no pixel is copied on the way out, and no column is lost."""

import pickle

import numpy as np
import pyarrow as pa

from pipeline.engine.stages import blocks

KINDS = pa.schema(
    [
        ("pair_id", pa.string()),
        ("one", blocks.IMAGE),
        ("some", pa.list_(blocks.IMAGE)),
        ("losses", pa.map_(pa.string(), pa.float64())),
    ]
)

IMAGES = KINDS.remove(3)


def pixels(level: int) -> np.ndarray:
    return np.full((level, 2, 3), level, np.uint8)


def table() -> pa.Table:
    rows = [
        {
            "pair_id": str(level),
            "one": blocks.image_value(pixels(level)),
            "some": [blocks.image_value(pixels(level + more)) for more in range(level)],
            "losses": [("a", float(level))],
        }
        for level in range(1, 4)
    ]
    return pa.Table.from_pylist([*rows, {"pair_id": "faulty"}], schema=KINDS)


def levels(values) -> list[int]:
    found = [blocks.pixels_of(value) for value in values]
    assert all(np.array_equal(each, pixels(len(each))) for each in found)
    return [len(each) for each in found]


def test_the_pixels_of_rows_lie_in_the_block():
    whole = table()
    cases = (whole, pa.concat_tables([whole.slice(2, 1), whole.slice(0, 2), whole.slice(3)]))
    for block, order in zip(cases, ([1, 2, 3], [3, 1, 2]), strict=True):
        rows = blocks.rows_of(block, without=["losses"])
        assert [set(row) for row in rows] == [{"pair_id", "one", "some"}] * 4
        assert levels(row["one"] for row in rows[:3]) == order
        some = [levels(row["some"]) for row in rows[:3]]
        assert some == [[level + more for more in range(level)] for level in order]
        assert rows[3] == {"pair_id": "faulty", "one": None, "some": None}
        pixels_column = [chunk.flatten()[0].dictionary for chunk in block["one"].chunks]
        data = [dictionary.buffers()[2] for dictionary in pixels_column]
        held = [range(buffer.address, buffer.address + buffer.size) for buffer in data]
        for row in rows[:3]:
            place = blocks.pixels_of(row["one"]).ctypes.data
            assert any(place in memory for memory in held)
    assert blocks.rows_of(whole.slice(0, 0)) == []


def test_a_block_gets_columns_from_rows_and_keeps_the_others():
    block = table()
    rows = blocks.rows_of(block, without=["losses"])
    for row in rows[:2]:
        row["one"] = blocks.image_value(pixels(7)[:, ::-1])
    rows[3]["fault"] = "it is faulty"
    schema = pa.schema([*KINDS, ("fault", pa.string())]).remove(2)
    made = blocks.with_columns(block, rows, ["one", "fault"], schema)
    assert made.schema == schema
    assert made["losses"].equals(block["losses"])
    assert made["fault"].to_pylist() == [None, None, None, "it is faulty"]
    assert levels(row["one"] for row in blocks.rows_of(made)[:3]) == [7, 7, 3]


def test_an_image_of_several_rows_lies_in_a_block_once():
    """Also in a part of the block, and after Ray has sent it or has put blocks together."""
    shared, other = (blocks.image_value(pixels(level)) for level in (100, 50))
    rows = [{"some": [shared]}, {"some": [other, shared]}, {"some": [shared]}, {}]
    expected = [[100], [50, 100], [100], None]
    schema = pa.schema([KINDS.field("some")])
    block = blocks.with_columns(pa.table({"pair_id": list("abcd")}), rows, ["some"], schema)
    assert block.nbytes < 2 * shared["pixels"].nbytes
    later = blocks.with_columns(pa.table({"pair_id": ["e"]}), rows[2:3], ["some"], schema)
    cases = (
        (block, expected),
        (block.slice(1, 2), expected[1:3]),
        (pickle.loads(pickle.dumps(block.slice(1))), expected[1:]),
        (pa.concat_tables([later, block]).combine_chunks(), [[100], *expected]),
    )
    for part, wanted in cases:
        found = [row["some"] for row in blocks.rows_of(part)]
        assert [some and levels(some) for some in found] == wanted


def test_a_block_whose_rows_all_failed_has_no_image():
    """Also after Ray has sent it, and next to a block that has images."""
    names = ["a", "b"]
    rows = [{"some": None}, {}]
    failed = blocks.with_columns(pa.table({"pair_id": names}), rows, ["one", "some"], IMAGES)
    assert failed.nbytes < 200
    good = table().select(IMAGES.names).slice(0, 1)
    cases = (
        failed,
        failed.slice(1),
        pickle.loads(pickle.dumps(failed)),
        pa.concat_tables([failed, good]).combine_chunks(),
    )
    for block in cases:
        found = blocks.rows_of(block)
        missing = [row for row in found if row["pair_id"] in names]
        assert missing
        assert all(row["one"] is None and row["some"] is None for row in missing)
    assert levels([found[-1]["one"]]) == [1]


def test_columns_of_any_type_pass_as_they_are():
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3), np.float32))
    columns = {
        "pair_id": pa.array(["a", "b"]),
        "when": pa.array([1, None], pa.timestamp("ns", tz="UTC")),
        "kind": pa.array(["x", "x"]).dictionary_encode(),
        "tensor": tensors,
        "days": pa.array([[1], None], pa.list_(pa.date32())),
    }
    block = pa.table(columns)
    rows = [{"pair_id": "c"}, {"pair_id": "d"}]
    made = blocks.with_columns(block, rows, ["pair_id"], block.schema)
    assert made["pair_id"].to_pylist() == ["c", "d"]
    for name in ("when", "kind", "tensor", "days"):
        assert made[name].equals(block[name])
