"""A style folder, and arguments that make stylising take a fraction of a second."""

import pytest
import torch

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


@pytest.fixture
def swift(weights_file):
    return {"weights": str(weights_file), "evaluations": 3}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
