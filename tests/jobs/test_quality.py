"""The judge of pictures, and the command that compares what it says with what is recorded."""

import json
from pathlib import Path

import pytest
import torch

from jobs import quality
from jobs._judge import fine_chroma, judged, load_judge
from jobs._painter import Painter
from pipeline.settings import StyleSettings
from tests.conftest import picture

VGG = Path(__file__).parents[3] / "shared/weights/vgg16_imagenet_as_vgg19_relu5_1_fp16.pth"

CONTENT, STYLE = picture(0, 64, 64), picture(3, 64, 64)


def test_the_content_image_is_all_and_the_style_image_nothing(weights_file):
    judge = load_judge(str(weights_file))
    content, style = ((x * 255).round() / 255 for x in (CONTENT, STYLE))
    same, there, half = judged(judge, content, style, [content, style, (content + style) / 2])
    assert same.layers == pytest.approx(dict.fromkeys(same.layers, 1.0))
    assert (same.share, same.content) == (pytest.approx(1), 0)
    assert there.share == pytest.approx(0, abs=1e-9)
    assert there.content > 0.01
    assert 0 < half.share < 1
    assert 0 < half.content < there.content
    assert list(same.layers) == [f"conv{block}_1" for block in range(1, 6)]


def test_specks_are_colours_that_change_from_pixel_to_pixel(weights_file):
    judge = load_judge(str(weights_file))
    noise = 0.1 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    grey = noise[:1].expand(3, -1, -1)
    plain, colored, light = judged(
        judge,
        CONTENT,
        STYLE,
        [CONTENT, (CONTENT + noise).clamp(0, 1), (CONTENT + grey).clamp(0, 1)],
    )
    assert plain.specks <= 1.1
    assert colored.specks > 2
    assert light.specks < 1.3  # grain without colour is none
    assert fine_chroma(torch.full((3, 32, 32), 0.3)) == pytest.approx(0, abs=1e-6)


def test_it_compares_with_what_is_recorded(weights_file, tmp_path, monkeypatch, capsys):
    record = tmp_path / "quality.json"
    monkeypatch.setattr(quality, "RECORD", record)
    options = [
        *("--judge", str(weights_file), "--weights", str(weights_file)),
        *("--pairs", "2", "--size", "48", "--iterations", "3"),
    ]
    assert quality.main([*options, "--record", "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    ((key, kept),) = json.loads(record.read_text()).items()
    assert key == "narrow.safetensors demo 48"
    assert len(kept["pairs"]) == 2
    assert quality.main(options) == 0
    for pair in kept["pairs"].values():
        pair["share"] /= 1.2
    record.write_text(json.dumps({key: kept}))
    assert quality.main(options) == 1
    kept["judge"] = "another judge's figures say nothing"
    record.write_text(json.dumps({key: kept}))
    assert quality.main(options) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--judge", "/nowhere.pth"], "/nowhere.pth"),
        (["--judge", "random", "--pictures", "/nowhere"], "no content_*.jpg"),
        (["--judge", "random", "--pictures", "/nowhere", "--iterations", "0"], "iterations: 0"),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_line(options, said, capsys):
    assert quality.main(options) == 2
    line = capsys.readouterr().err.strip()
    assert said in line
    assert "\n" not in line


@pytest.mark.skipif(not VGG.exists(), reason=f"{VGG.name} is not at hand")
def test_a_real_vgg_paints_two_pairs_well():
    """The guard that looks: the defaults, at 96 px, judged by the network's own activations."""
    judge = load_judge(str(VGG))
    settings = StyleSettings(weights=str(VGG), image_size=96, iterations=40)
    pairs = quality.development_pairs(96)[:2]
    figures, _ = quality.judge_weights(Painter(settings), judge, pairs)
    for name, pair in figures.items():
        assert pair["share"] < 0.12, (name, pair)
        assert pair["layers"]["conv1_1"] < 0.02, (name, pair)
        assert pair["specks"] < 1.5, (name, pair)
        assert 0.3 < pair["content"] < 2.5, (name, pair)
