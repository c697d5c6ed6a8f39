"""Pictures in the documents are what this program makes: version, settings, weights, optimiser."""

import re
from pathlib import Path

import pytest

from jobs import pictures
from pipeline.settings import StyleSettings, fingerprint
from pipeline.style.network.weights import load_weights
from tests.outputs import origin_of

ROOT = Path(__file__).parent.parent
SHOWN = sorted(
    {
        (page.parent / target).resolve()
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
    }
)


@pytest.fixture(scope="module")
def probe():
    return pictures.probe()


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_a_picture_is_what_this_program_makes(path, probe):
    origin = origin_of(path)
    assert origin, "carries nothing of how it was made: run python -m jobs.pictures"
    assert origin["software"] == pictures.software()
    assert origin["probe"] == pytest.approx(probe, rel=0.05)
    for painter in origin["painters"]:
        settings = StyleSettings(weights=painter["weights"], **painter["settings"])
        assert painter["fingerprint"] == fingerprint(settings, painter["digest"])
        if painter["weights"] == "compact":  # random ones are rounded as the threads divide them
            _, digest = load_weights(settings)
            assert painter["digest"] == digest


def test_some_pictures_are_shown():
    assert {"demo.jpg", "imagenet.jpg"} <= {path.name for path in SHOWN}
