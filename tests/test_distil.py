"""How the compact network is made, on a teacher made here."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from jobs.train_compact import distil, fitting, training_pictures
from pipeline.settings import StyleSettings
from pipeline.style.network.calibration import calibration_pictures
from pipeline.style.network.rescaling import random_weights
from pipeline.style.network.vgg import VGG
from pipeline.style.network.weight_files import check_weights
from pipeline.style.network.weights import load_network

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher's file."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(random_weights(3, (8, 8, 8, 8, 8)), path)
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pictures and filters."""
    picture = (calibration_pictures(128)[0] * 255).byte().permute(1, 2, 0).numpy()
    monkeypatch.setattr(distil, "bundled_pictures", lambda: [picture])
    monkeypatch.setattr(distil, "CROP", 64)
    monkeypatch.setattr(fitting, "WIDTHS", dict.fromkeys(fitting.WIDTHS, 6))
    monkeypatch.setattr(fitting, "CHUNK", 3)


def run(folder: Path, source: Path) -> Path:
    output = folder / "student.safetensors"
    options = {"--teacher": source, "--output": output, "--painted": 2, "--crops": 4}
    options |= {"--samples": 500}
    words = [str(word) for option in options.items() for word in option]
    assert distil.main(words) == 0
    return output


def test_a_network_is_the_same_for_the_same_options(tmp_path: Path, source: Path) -> None:
    output = run(tmp_path, source)
    state = safetensors.torch.load_file(output)
    again = safetensors.torch.load_file(run(tmp_path, source))
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert load_network(StyleSettings(weights=str(output))).layers[-1] == "conv5_1"


def test_a_teacher_that_does_not_fit_is_one_clear_line(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(source, weights_only=True)
    short = {name: t for name, t in state.items() if int(name.split(".")[1]) < 20}
    torch.save(short, tmp_path / "short.pth")
    for name, problem in (
        (str(tmp_path / "none.pth"), "cannot be read"),
        (str(tmp_path / "short.pth"), "ends at conv4_1"),
        (f"{source}:reflect", "padding must be zeros"),
    ):
        assert distil.main(["--teacher", name, "--output", "x"]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert name in message
        assert problem in message


def unexplained(network: VGG, teacher: VGG, images: Tensor) -> dict[str, float]:
    """By layer, what no linear map of the network's answers gives of the teacher's variance."""
    found = {}
    answers = dict(teacher.activations(images))
    for layer, own in network.activations(images):
        given, wanted = (x.transpose(0, 1).flatten(1).T for x in (own, answers[layer]))
        missed = given @ torch.linalg.lstsq(given, wanted).solution - wanted
        found[layer] = float(missed.var(dim=0).sum() / wanted.var(dim=0).sum())
    return found


def test_a_fitted_network_answers_as_its_teacher_does(source: Path) -> None:
    state, deepest, _ = fitting.read_teacher(str(source))
    teacher = VGG(state, deepest_layer=deepest)
    images = calibration_pictures(64)
    layers = fitting.fitted(teacher, images, 10_000, torch.Generator().manual_seed(0))
    own = {name: tensor for _, tensors in layers for name, tensor in tensors.items()}
    student = VGG(check_weights(own, deepest, "own"), deepest_layer=deepest)
    for layer, activation in student.activations(images):
        assert activation.shape[1] == 6
        assert float(activation.mean()) == pytest.approx(1, rel=1e-3), layer
    untaught = VGG(random_weights(4, (6, 6, 6, 6, 6)), deepest_layer=deepest)
    fitted, other = (unexplained(network, teacher, images) for network in (student, untaught))
    assert set(fitted) == set(fitting.WIDTHS)
    assert all(fitted[layer] < 0.7 * other[layer] for layer in fitted)


def test_filters_are_chosen_that_speak_for_the_others() -> None:
    strong = 3 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    weak = torch.rand(200, 1, generator=torch.Generator().manual_seed(1))
    mixed = strong @ torch.tensor([[0.5], [0.4]])
    layer = torch.cat([weak, mixed, strong], dim=1)
    chosen = layer[:, fitting.explaining(layer, 3)]
    missed = chosen @ torch.linalg.lstsq(chosen, layer).solution - layer
    assert float(missed.abs().max()) < 1e-3


def test_a_filter_may_answer_anything_negative_where_its_teacher_does() -> None:
    generator = torch.Generator().manual_seed(0)
    given = F.pad(torch.randn(4000, 3, generator=generator), (0, 1), value=1.0)
    wanted = given @ torch.tensor([[1.0], [-2.0], [0.5], [0.3]])
    bent = torch.where(wanted > 0, wanted, 5 * wanted)  # no linear answer gives this

    def missed(rounds: int) -> float:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "ROUNDS", rounds)
            answer = given @ fitting.fitted_filters(given, bent)
        return float((F.relu(answer) - F.relu(bent)).square().mean())

    assert missed(30) < 0.05 * missed(0)


def test_pictures_are_functions_of_the_seed() -> None:
    source = [np.full((120, 100, 3), 90, dtype=np.uint8)]
    first, again, other = (
        training_pictures.painted_pictures(4, seed, source) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    small = training_pictures.crops(first, 5, 96, (0, 7))
    assert small.shape == (5, 3, 96, 96)
    assert 0 <= float(small.min()) < float(small.max()) <= 1
    assert torch.equal(small, training_pictures.crops(first, 5, 96, (0, 7)))


def test_held_out_pictures_are_not_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (100, 100)).save(tmp_path / name)
    assert len(training_pictures.folder_pictures([tmp_path], ["a.png"])) == 1
    with pytest.raises(ValueError, match=r"c\.png"):
        training_pictures.folder_pictures([tmp_path], ["c.png"])


def test_pictures_are_found_in_folders_below_and_reduced(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    Image.new("RGB", (2000, 1000), (9, 8, 7)).save(tmp_path / "below" / "large.webp", lossless=True)
    Image.new("RGB", (99, 400)).save(tmp_path / "below" / "narrow.png")
    (picture,) = training_pictures.folder_pictures([tmp_path], [])
    assert picture.shape == (512, 1024, 3)
    assert picture[0, 0].tolist() == [9, 8, 7]


def test_stamps_lie_on_pictures_and_drawings_are_left_out(tmp_path: Path) -> None:
    for folder, color in (("animals", (255, 0, 0, 255)), ("cartoon", (0, 0, 255, 255))):
        (tmp_path / folder).mkdir()
        stamp = Image.new("RGBA", (120, 120), (0, 0, 0, 0))
        stamp.paste(color, (30, 30, 90, 90))
        stamp.save(tmp_path / folder / "stamp.png")
    ground = np.zeros((200, 300, 3), dtype=np.uint8)
    (picture,) = training_pictures.collages(1, 0, tmp_path, [ground])
    assert picture.shape == (512, 512, 3)
    red, _, blue = (picture[..., channel] for channel in range(3))
    assert (red == 255).any()
    assert (red == 0).any()
    assert not (blue > red).any()
