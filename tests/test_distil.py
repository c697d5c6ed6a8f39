"""The training of the compact network, on a teacher made here and a few steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from jobs import distil, evaluate_weights, training_pictures
from pipeline.settings import StyleSettings
from pipeline.style import distillation
from pipeline.style.calibration import calibration_pictures
from pipeline.style.vgg import VGG
from pipeline.style.weights import load_network, random_weights

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(random_weights(3, (8, 8, 8, 8, 8)), path)
    return path


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (calibration_pictures(128)[0] * 255).byte().permute(1, 2, 0).numpy()
    monkeypatch.setattr(distil, "bundled_pictures", lambda: [source])
    monkeypatch.setattr(distil, "PROBES", 4)


@pytest.fixture(scope="module")
def student(teacher: Path) -> distillation.Student:
    images = calibration_pictures(64)
    student = distillation.Student([distillation.load_teacher(str(teacher), images)], seed=0)
    for _ in range(3):  # gives the batch normalisation its moments
        list(student(images))
    return student.eval()


def run(folder: Path, teacher: Path, *more: str) -> Path:
    folder.mkdir(exist_ok=True)
    output = folder / "student.safetensors"
    options = {"--teacher": f"{teacher}:reflect", "--output": output, "--painted": 2}
    options |= {"--batch": 2, "--checkpoint": folder / "distil.pt"}
    words = [str(word) for option in options.items() for word in option]
    assert distil.main([*words, *more]) == 0
    return output


@pytest.mark.usefixtures("few_pictures")
def test_a_cut_run_goes_on_to_what_an_uncut_one_writes(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = safetensors.torch.load_file(run(tmp_path / "uncut", teacher, "--steps", "2"))

    def cut(
        pool: Sequence[training_pictures.Picture], count: int, size: int, seed: tuple[int, int]
    ) -> Tensor:
        if seed[1] == 1:
            raise KeyboardInterrupt
        return training_pictures.crops(pool, count, size, seed)

    with monkeypatch.context() as patch:
        patch.setattr(distil, "SAVE_EVERY", 1)
        patch.setattr(distil, "crops", cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", teacher, "--steps", "2")
    output = run(tmp_path / "cut", teacher, "--steps", "2", "--resume")
    found = safetensors.torch.load_file(output)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert output.stat().st_size < 2_000_000
    assert load_network(StyleSettings(weights=str(output))).layers[-1] == "conv5_1"


@pytest.mark.usefixtures("few_pictures")
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"teachers": ["other.pth"], "seed": 0}, tmp_path / "distil.pt")
    words = ["--teacher", str(teacher), "--output", str(tmp_path / "x"), "--painted", "1"]
    assert distil.main([*words, "--checkpoint", str(tmp_path / "distil.pt"), "--resume"]) == 2
    assert "other.pth" in capsys.readouterr().err


@pytest.mark.usefixtures("few_pictures")
def test_a_teacher_that_cannot_be_read_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--teacher", str(tmp_path / "none.pth"), "--output", "x", "--painted", "1"]
    assert distil.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_loss_falls(teacher: Path) -> None:
    images = calibration_pictures(96)[:4]
    teachers = [distillation.load_teacher(str(teacher), images)]
    student = distillation.Student(teachers, seed=0)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss, report = distillation.mismatch(student, teachers, images, gram_share=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert set(report) == {f"0.{layer}" for layer in student.layers}


def test_folding_the_batch_normalisation_changes_no_output(student: distillation.Student) -> None:
    images = calibration_pictures(64)
    folded = VGG(student.folded(), deepest_layer=distillation.DEEPEST)
    with torch.no_grad():
        expected = dict(student(images))
    for layer, activation in folded.activations(images):
        torch.testing.assert_close(activation, expected[layer], rtol=1e-3, atol=1e-4)


def test_what_is_written_gives_the_same_outputs_up_to_a_factor_per_filter(
    student: distillation.Student,
) -> None:
    images = calibration_pictures(64)
    exported = {
        name: tensor.float() for name, tensor in distillation.export(student, images).items()
    }
    network = VGG(exported, deepest_layer=distillation.DEEPEST)
    with torch.no_grad():
        expected = dict(student(images))
    for layer, activation in network.activations(images):
        mean, own_mean = (x.mean(dim=(0, 2, 3)) for x in (activation, expected[layer]))
        spoken = own_mean > 0.3 * own_mean.mean()
        torch.testing.assert_close(mean[spoken], torch.ones_like(mean[spoken]), rtol=0.02, atol=0)
        scaled = expected[layer] / own_mean.view(1, -1, 1, 1)
        error = (activation - scaled)[:, spoken].abs().mean()
        assert float(error) < 0.01, layer  # half precision


def test_evaluations_are_timed_in_turns(teacher: Path) -> None:
    settings = StyleSettings(weights=str(teacher), style_layers=("conv1_1",), content_layers=())
    first, second = evaluate_weights.seconds([settings, settings], size=32, rounds=3)
    assert min(first, second) > 0


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


def test_weights_are_judged_by_a_teacher(
    tmp_path: Path,
    teacher: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate_weights, "seconds", lambda *_: [0.1, 0.8])
    for name, picture in zip("cs", calibration_pictures(64), strict=False):
        pixels = (picture * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    words = ["--weights", f"{teacher}:reflect", "--teacher", str(teacher), "--size", "64"]
    words += ["--pair", str(tmp_path / "c.png"), str(tmp_path / "s.png")]
    words += ["--evaluations", "5", "--picture", str(tmp_path / "out.png")]
    assert evaluate_weights.main(words) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| c | s | teacher.pth | 1.000 (0.000 + 1.000) | 0.")
    assert rows[-1] == f"| {teacher}:reflect | 0.100 | 8.0 |"
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (3 * 64, 64)
