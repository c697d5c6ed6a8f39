"""The store stage: what becomes of pictures that the disk refuses at the end of a block."""

import os
from collections.abc import Callable
from types import SimpleNamespace

import pyarrow as pa

from pipeline.data.images import codec
from pipeline.engine.board import Board
from pipeline.engine.runtime.hanging import Watchdog
from pipeline.engine.stages import blocks, storing
from tests.conftest import picture


def stylized(context, names) -> pa.Table:
    pixels = (picture(0, 64, 64).permute(1, 2, 0) * 255).byte().numpy()
    plain = {
        "manifest_row": 0, "content_uri": "c", "style_uri": ["s"], "style_blend": [1.0],
        "overrides": "{}", "load_seconds": 0.1, "total_loss": 1.0,
        "__stylized_image": blocks.image_value(pixels),
    }  # fmt: skip
    rows = [plain | {"pair_id": name, "file_stem": name} for name in names]
    return pa.Table.from_pylist(rows, schema=context.schema(*blocks.STYLIZED))


class Noted(Board):
    """A board that notes what is begun and ended, outside of Ray."""

    def __init__(self, crashed: dict[str, int], note: Callable[[str, list[str]], None]) -> None:
        super().__init__(SimpleNamespace(add=SimpleNamespace(remote=lambda *_: None)))
        vars(self).update(crashed=crashed, note=note)

    def enter(self, pairs):
        self.note("begin", [name for name in pairs if name not in self.crashed])
        return self.crashed

    def begin(self, pairs):
        self.note("begin", pairs)

    def _end(self, pairs):
        self.note("end", pairs)

    def watchdog(self):
        return Watchdog(0, print)


def test_pictures_are_on_the_disk_before_their_pairs_are_no_longer_under_way(context, monkeypatch):
    """So a pair at whose file the disk hangs is known, and is then stored by itself."""
    notes, replace = [], os.replace

    def noting(temporary, path):
        notes.append(os.path.basename(path))
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", noting)
    board = Noted({"c": 1}, lambda what, pairs: notes.append((what, pairs)) if pairs else None)
    found = storing.store(stylized(context, "abc"), context, board).to_pylist()
    assert [row["status"] for row in found] == ["ok"] * 3
    first = notes.index(("end", ["a", "b"]))
    assert notes[0] == ("begin", ["a", "b"])
    assert sorted(notes[1:first]) == ["a.png", "b.png"]
    assert notes[first + 1 :] == [("begin", ["c"]), "c.png", ("end", ["c"])]


def test_a_picture_that_the_disk_refuses_is_an_error_and_the_others_are_stored(
    context, tmp_path, monkeypatch
):
    replace = os.replace

    def full(temporary, path):
        if str(path).endswith("b.png"):
            raise OSError(28, "No space left on device")
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", full)
    board = Noted({}, lambda *_: None)
    found = storing.store(stylized(context, "abc"), context, board).to_pylist()
    assert [row["status"] for row in found] == ["ok", "error", "ok"]
    assert found[1]["error_class"] == "write_failed"
    assert "b.png" in found[1]["error_message"]
    described = ("file_name", "width", "height", "bytes", "sha256", "store_seconds")
    assert not any(found[1][name] for name in described)
    assert sorted(os.listdir(tmp_path / "images")) == ["a.png", "c.png"]
    for row in (found[0], found[2]):
        assert codec.sha256((tmp_path / row["file_name"]).read_bytes()) == row["sha256"]
