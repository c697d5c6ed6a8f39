"""A style folder, and arguments that make stylising take a fraction of a second."""

import functools

import pytest
import torch

from pipeline.style.network.weights import load_weights
from pipeline.training import augmenter
from tests.conftest import image_bytes


@pytest.fixture
def styles(tmp_path):
    """A folder of two styles, with files beside them that are none."""
    folder = tmp_path / "styles"
    (folder / "old").mkdir(parents=True)
    (folder / "a.png").write_bytes(image_bytes(11, 40, 60))
    (folder / "old" / "b.JPG").write_bytes(image_bytes(12, 64, 48, "JPEG"))
    (folder / "readme.txt").write_text("none")
    (folder / ".hidden.png").write_text("none")
    return folder


@pytest.fixture(scope="session")
def load_once():
    """Normalising takes seconds, and all transforms of these tests have the same weights."""
    return functools.cache(load_weights)


@pytest.fixture
def swift(weights_file, load_once, monkeypatch):
    narrow = str(weights_file)

    def load(settings, read):
        return load_once(settings) if settings.weights == narrow else load_weights(settings, read)

    monkeypatch.setattr(augmenter, "load_weights", load)
    return {"weights": narrow, "evaluations": 3}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
