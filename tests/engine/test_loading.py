"""The load stage: style images that a process keeps, limits, and what is wrong with files."""

import dataclasses

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.data.errors import RowError
from pipeline.data.storage import files
from pipeline.engine.stages import blocks, loading
from pipeline.settings import replace
from tests.conftest import image_bytes
from tests.outputs import record_of


def test_a_result_that_its_format_cannot_hold_is_an_error_before_it_is_made(context, tmp_path):
    uris = {}
    for name, size in (("long", (16_384, 32)), ("small", (64, 64))):
        uris[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", size, "red").save(uris[name])
    style = replace(context.style, image_size=32, image_edge="short")
    row = {"style_uri": [uris["small"]], "overrides": "{}"}
    for file_format, fits in (("png", True), ("webp", False), ("jpg", True)):
        context = dataclasses.replace(context, style=style, file_format=file_format)
        loading.load_images({**row, "content_uri": uris["small"]}, context)
        if fits:
            loading.load_images({**row, "content_uri": uris["long"]}, context)
            continue
        with pytest.raises(RowError, match="16384 x 32 px, but an edge of a webp file"):
            loading.load_images({**row, "content_uri": uris["long"]}, context)


@pytest.fixture
def style(tmp_path):
    """Return a function that writes a style image, and one that reads it as a load process does."""
    path = tmp_path / "s.png"
    loading._style_memo.clear()

    def write(seed):
        path.write_bytes(image_bytes(seed, 64, 64))

    def read(context, size=64.0):
        return loading._read_style(str(path), size, "long", context)

    write(0)
    return write, read


@pytest.mark.parametrize("versions", ["known", "unknown"])
def test_a_style_that_was_replaced_is_read_again(context, style, monkeypatch, versions):
    """A process reads it again for another run, and for the same one where the storage tells."""
    write, read = style
    if versions == "unknown":
        monkeypatch.setattr(files, "version", lambda *_: None)
    first = read(context)
    assert read(context)[0] is first[0]
    write(1)
    image, digest, _ = read(dataclasses.replace(context, job_id="another"))
    assert digest != first[1]
    assert image["pixels"] != first[0]["pixels"]
    assert (read(context)[0] is first[0]) == (versions == "unknown")


@pytest.mark.parametrize("limit", ["max_pixels", "max_bytes"])
def test_a_style_that_an_earlier_run_let_in_is_held_to_the_new_ones_limits(context, style, limit):
    _, read = style
    read(context)
    with pytest.raises(RowError, match=limit):
        read(dataclasses.replace(context, job_id="another", **{limit: 2000}))


def test_the_styles_that_a_load_process_keeps_are_bounded_in_bytes(context, style, monkeypatch):
    _, read = style
    each = 64 * 64 * 3
    for most, kept in ((3 * each, 3), (3 * each - 1, 2), (each - 1, 0)):
        monkeypatch.setattr(loading, "STYLE_BYTES", most)
        loading._style_memo.clear()
        for size in (64.0, 64.1, 64.2):  # they round to as many pixels
            assert read(context, size)[0]["pixels"].nbytes == each
        assert len(loading._style_memo) == kept


def test_what_is_wrong_with_pictures_that_are_read_reaches_the_record(context, tmp_path):
    """Also where a load process has the style already, and with no credential."""
    loading._style_memo.clear()
    for name, cut in (("cut.jpg", 2), ("whole.jpg", 0)):
        data = image_bytes(5, 64, 64, "JPEG")
        (tmp_path / name).write_bytes(data[: len(data) - cut])
    cut, whole = str(tmp_path / "cut.jpg"), str(tmp_path / "whole.jpg")
    row = {
        "pair_id": "p", "manifest_row": 0, "overrides": "{}", "style_blend": [1.0],
        "fault_class": None, "fault_message": None,
    }  # fmt: skip
    rows = [
        {**row, "content_uri": whole, "style_uri": [whole]},
        {**row, "content_uri": whole, "style_uri": [whole, cut]},
        {**row, "content_uri": f"file://{cut}", "style_uri": [cut]},
    ]
    wrong = "was read, but its end is missing or broken"
    of_style = f"style {cut}: {wrong}"
    expected = [None, [of_style], [f"content file://{cut}: {wrong}", of_style]]
    done = [{**row, **loading.load_images(row, context)} for row in rows]
    table = pa.Table.from_pylist(done, schema=context.schema(*blocks.LOADED))
    assert table["warnings"].to_pylist() == expected
    assert [len(notes) for *_, notes in loading._style_memo.values()] == [0, 1]
    found = [record_of(loaded, context)["warnings"] for loaded in table.to_pylist()]
    assert found == expected
    signed = loading._warning("style", "https://u:S3CRET@h/x.png?sig=S3CRET", ["a", "b"])
    assert signed == "style https://h/x.png: was read, but a; b"
