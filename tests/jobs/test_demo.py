"""The demo's contact sheet."""

import numpy as np
import pytest
from PIL import Image

from jobs import _sheet, demo
from tests.outputs import origin_of


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_results_of_every_format_are_on_the_contact_sheet(tmp_path, ending):
    contents, styles = ([tmp_path / f"{kind}{n}.png" for n in range(2)] for kind in "cs")
    images = tmp_path / "images"
    images.mkdir()
    results = [images / f"{demo.pair_id(c, s)}.{ending}" for c in contents for s in styles]
    for path in (*contents, *styles, *results[:-1]):
        Image.new("RGB", (64, 48), "blue").save(path)
    sheet = demo.contact_sheet(contents, styles, images, tmp_path / "sheet.png")
    page = Image.open(sheet)
    pixels, edge = np.asarray(page).astype(int), demo.EDGE
    step = page.width // 3, page.height // 3

    def middle(column, line):
        return pixels[step[1] * line + step[1] // 2, step[0] * column + step[0] // 2]

    assert min(step) > edge
    for place in ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)):
        assert middle(*place) == pytest.approx([0, 0, 255], abs=10), place
    near = pixels[2 * step[1] :, 2 * step[0] :].reshape(-1, 3)
    assert [255, 0, 0] in near.tolist()  # a cross, where there is no result
    assert [0, 0, 255] not in near.tolist()


def test_the_corner_and_the_captions_have_words(tmp_path):
    contents, styles = ([tmp_path / f"{kind}{n}.png" for n in range(2)] for kind in "cs")
    for path in (*contents, *styles):
        Image.new("RGB", (64, 48), "blue").save(path)
    made = {demo.pair_id(c, s): Image.new("RGB", (8, 8)) for c in contents for s in styles}
    page = np.asarray(_sheet.draw(demo.grid(contents, styles, made, "compact, 256 px"), demo.EDGE))
    corner = page[: demo.EDGE, : demo.EDGE]
    assert (corner < 60).all(axis=2).any()
    captions = page[demo.EDGE + 20 : demo.EDGE + 46, demo.EDGE + 24 :]
    assert (captions < 140).all(axis=2).any()


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_sheet_tells_how_it_was_made(tmp_path, ending):
    path = tmp_path / f"sheet.{ending}"
    _sheet.save(Image.new("RGB", (32, 32)), path, {"software": "ours 1", "probe": 0.5})
    assert origin_of(path) == {"software": "ours 1", "probe": 0.5}
    _sheet.save(Image.new("RGB", (32, 32)), path)
    assert origin_of(path) == {}


def test_a_signed_address_of_weights_is_not_shown(tmp_path, monkeypatch, capsys):
    ran, drawn = [], []
    monkeypatch.setattr(demo.stylize, "main", lambda argv: ran.append(argv) or 0)
    monkeypatch.setattr(demo, "contact_sheet", lambda *given: drawn.append(given[-1]))
    weights = "https://user:SECRET@h/vgg.pth?X-Amz-Signature=SECRET"
    assert demo.main(["--output", str(tmp_path), "--weights", weights]) == 0
    said = capsys.readouterr()
    assert "demo: weights 'https://h/vgg.pth', not" in said.out
    assert drawn == ["Weights: vgg\n256 px\nmade by\nmake demo"]
    assert weights in ran[0]
    assert "SECRET" not in said.out + said.err


def test_a_dry_run_of_the_demo_makes_no_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo.stylize, "main", lambda _: 0)
    assert demo.main(["--output", str(tmp_path), "--dry-run"]) == 0
    assert "contact sheet" not in capsys.readouterr().out


def test_a_demo_that_cannot_be_written_ends_with_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert demo.main(["--output", str(tmp_path / "file")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"error: output {tmp_path}/file: ")
    assert line.endswith("; choose another")
