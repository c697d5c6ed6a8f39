"""The demo's contact sheet."""

import numpy as np
import pytest
from PIL import Image

from jobs import demo


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_results_of_every_format_are_on_the_contact_sheet(tmp_path, ending):
    contents, styles = ([tmp_path / f"{kind}{n}.png" for n in range(2)] for kind in "cs")
    images = tmp_path / "images"
    images.mkdir()
    results = [images / f"{demo.pair_id(c, s)}.{ending}" for c in contents for s in styles]
    for path in (*contents, *styles, *results[:-1]):
        Image.new("RGB", (64, 48), "blue").save(path)
    sheet = demo.contact_sheet(contents, styles, images, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(sheet)).astype(int)
    edge = demo.THUMBNAIL

    def middle(column, line):
        return pixels[edge * line + edge // 2, edge * column + edge // 2]

    assert middle(0, 0).tolist() == [255, 255, 255]
    for place in ((1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2)):
        assert middle(*place) == pytest.approx([0, 0, 255], abs=10), place
    assert middle(2, 2).tolist() == [255, 0, 0]  # a cross, where there is no result
