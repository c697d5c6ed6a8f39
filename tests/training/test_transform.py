"""``StylizeTransform``, with torchvision's own types and DataLoader."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline import StylizeTransform
from pipeline.settings import SettingError
from pipeline.style.method import losses
from pipeline.style.network.weights import WeightsError
from pipeline.style.recipe import TargetCache
from tests.conftest import image_bytes, picture


def pil(seed=0, height=32, width=40):
    return Image.fromarray(
        (picture(seed, height, width).permute(1, 2, 0).numpy() * 255).astype("u1")
    )


def batch(count=4):
    return torch.stack([picture(seed, 32, 40) for seed in range(count)])


@pytest.fixture
def always(styles, swift):
    return StylizeTransform(styles, p=1, **swift)


def differ(made, given):
    made, given = (v2.functional.to_image(each) for each in (made, given))
    return bool((made != given).any())


@pytest.mark.parametrize(
    "given",
    [
        pil(),
        picture(0, 32, 40),
        (picture(0, 32, 40) * 255).byte(),
        picture(0, 32, 40).half(),
        tv_tensors.Image(picture(0, 32, 40)),
        tv_tensors.Image((batch() * 255).byte()),
        batch(),
        picture(0, 17, 28),  # any size
    ],
    ids=lambda given: f"{type(given).__name__}-{getattr(given, 'dtype', '')}",
)
def test_an_image_keeps_its_kind_size_and_type(always, given):
    before = copy.deepcopy(given)
    made = always(given)
    assert type(made) is type(given)
    if isinstance(given, Image.Image):
        assert (made.size, made.mode) == (given.size, "RGB")
    else:
        assert (made.shape, made.dtype) == (given.shape, given.dtype)
        assert not made.dtype.is_floating_point or bool(((made >= 0) & (made <= 1)).all())
    assert differ(made, given)
    assert not differ(given, before), "what is given is not changed"


def test_a_sample_keeps_all_but_its_image(always):
    boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 9]], format="XYXY", canvas_size=(32, 40))
    mask = tv_tensors.Mask(torch.ones(32, 40, dtype=torch.uint8))
    sample = {"image": tv_tensors.Image(picture(0, 32, 40)), "boxes": boxes, "mask": mask}
    sample |= {"label": torch.tensor([3.0]), "name": "cat"}
    made = v2.Compose([always, v2.ToDtype(torch.float32)])(sample)
    assert differ(made["image"], sample["image"])
    assert all(made[name] is sample[name] for name in ("label", "name"))
    assert torch.equal(made["boxes"], boxes)
    assert torch.equal(made["mask"], mask)
    image, label = always(batch(), torch.arange(4))
    assert differ(image, batch())
    assert label.tolist() == [0, 1, 2, 3]


def test_images_of_one_sample_have_one_style(styles, swift):
    transform = StylizeTransform(styles, p=0.5, **swift)
    torch.manual_seed(0)
    for _ in range(6):
        left, right = transform(pil(), pil())
        assert not differ(left, right)


def test_p_decides_for_each_image_and_torchs_seed_repeats_it(styles, swift):
    half = StylizeTransform(styles, p=0.5, batch_size=3, **swift)
    given = batch(8)
    torch.manual_seed(1)
    first = half(given)
    changed = [differ(*pair) for pair in zip(first, given, strict=True)]
    assert 0 < sum(changed) < 8
    torch.manual_seed(1)
    assert torch.equal(half(given), first)
    torch.manual_seed(2)
    assert not torch.equal(half(given), first)
    assert StylizeTransform(styles, p=0, **swift)(given) is given


def test_in_a_batch_an_image_becomes_what_it_becomes_among_others(styles, swift):
    alone = StylizeTransform(styles / "a.png", p=1, batch_size=2, **swift)
    many = alone(batch(5))
    assert torch.equal(many[:1], alone(batch(1)))


def test_style_targets_are_computed_once(styles, swift, monkeypatch):
    transform = StylizeTransform(styles / "a.png", p=1, **swift)
    caches = []
    real = TargetCache.get
    monkeypatch.setattr(TargetCache, "get", lambda *given: caches.append(given[0]) or real(*given))
    for _ in range(3):
        transform(pil())
    assert (caches[0].misses, caches[0].hits) == (1, 2)


def test_styles_are_drawn_by_weight(styles, swift):
    weights = [0.75, 0.25, 0.0]
    sources = [styles, pil(5), np.full((20, 20, 3), 0.5)]
    transform = StylizeTransform(sources, style_weights=weights, p=1, **swift)
    torch.manual_seed(0)
    drawn = transform._augmenter.draw(4000)
    counts = [drawn.count(index) for index in range(4)]
    assert counts[3] == 0
    assert counts[:3] == pytest.approx([1500, 1500, 1000], rel=0.15), "a folder's files share its"


def test_what_an_outer_loop_has_switched_on_changes_nothing(styles, swift):
    transform = StylizeTransform(styles / "a.png", p=1, **swift)
    expected = transform(batch(2))
    fresh = StylizeTransform(styles / "a.png", p=1, **swift)
    with torch.inference_mode(), torch.autocast("cpu"):
        assert torch.equal(fresh(batch(2)), expected)
    assert torch.equal(fresh(batch(2)), expected), "its tensors can still be changed"
    given = batch(2).requires_grad_()
    assert torch.equal(fresh(given), expected)


def test_a_loops_short_products_reach_neither_losses_nor_steps(styles, swift, monkeypatch):
    seen, gram = [], losses.gram_of_rows

    def noted(*given):
        seen.append(torch.get_float32_matmul_precision())
        return gram(*given)

    monkeypatch.setattr(losses, "gram_of_rows", noted)
    torch.set_float32_matmul_precision("medium")
    try:
        StylizeTransform(styles / "a.png", p=1, **swift)(batch(1))
        assert {*seen} == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_grey_and_transparent_images_become_rgb_whatever_is_drawn(styles, swift):
    never = StylizeTransform(styles, p=0, **swift)
    for mode in ("L", "RGBA", "P", "1"):
        assert never(pil().convert(mode)).mode == "RGB"


def test_it_survives_pickling_without_its_network(always):
    torch.manual_seed(0)
    first = always(pil())
    data = pickle.dumps(always)
    assert len(data) < 100_000
    torch.manual_seed(0)
    assert not differ(pickle.loads(data)(pil()), first)
    assert "2 styles, p=1, weights=" in repr(always)
    assert not list(always.parameters()), "an optimiser of the whole model must not train it"


class Pictures(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return v2.functional.pil_to_tensor(self.transform(pil(index))), index


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_dataloader(always, workers):
    always(pil())  # before the workers start: they must not share its lanes
    loader = DataLoader(Pictures(always), batch_size=3, num_workers=workers)
    epochs = []
    for _ in range(2):
        torch.manual_seed(0)
        epochs.append(list(loader))
    assert torch.cat([label for _, label in epochs[0]]).tolist() == list(range(6))
    images = torch.cat([image for image, _ in epochs[0]])
    assert torch.equal(images, torch.cat([image for image, _ in epochs[1]])), "the same seed"
    assert all(differ(image, pil(index)) for index, image in enumerate(images))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (picture(0, 8, 40), "40 x 8 px"),
        (torch.full((3, 32, 32), torch.nan), "not finite"),
        (Image.open(io.BytesIO(image_bytes(3, 32, 32)[:900])), "its file cannot be decoded"),
    ],
    ids=["small", "NaN", "broken"],
)
def test_an_image_that_fails_stays_as_it_is_with_one_warning(always, given, reason):
    with pytest.warns(RuntimeWarning, match=f"an image was not stylised: .*{reason}"):
        assert always(given) is given
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert always(given) is given


def test_in_a_batch_only_the_image_that_fails_stays(always):
    given = batch(3)
    given[1] = torch.nan
    with pytest.warns(RuntimeWarning, match="not finite"):
        made = always(given)
    assert [differ(*pair) for pair in zip(made[::2], given[::2], strict=True)] == [True, True]
    assert bool(made[1].isnan().all())


def test_a_style_that_breaks_later_is_one_warning(tmp_path, swift):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(image_bytes(index, 40, 40))
    transform = StylizeTransform(folder, p=1, style_cache=2, **swift)  # too many to be read at once
    for file in folder.iterdir():
        file.unlink()
    with pytest.warns(RuntimeWarning, match=r"not stylised: style .*\.png: .*does not exist|found"):
        transform(pil())


def test_a_style_that_is_too_narrow_is_one_warning(swift):
    transform = StylizeTransform([np.zeros((16, 900, 3), np.uint8)], p=1, **swift)
    with pytest.warns(RuntimeWarning, match="not stylised: a style of 900 x 16 px"):
        transform(pil())
    wide = StylizeTransform([picture(5, 40, 60).permute(1, 2, 0).numpy()], p=1, **swift)
    assert differ(wide(pil()), pil())


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (picture(0, 32, 32) * 4 - 2, ValueError, "normalise it after this step"),
        (torch.zeros(1, 32, 32), ValueError, r"shape \(1, 32, 32\).*v2.RGB"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), ValueError, "of type torch.int64"),
        (Image.new("I;16", (32, 32)), ValueError, "mode I;16; convert it"),
        (tv_tensors.Video(torch.zeros(2, 3, 32, 32)), TypeError, "not videos"),
    ],
    ids=["normalised", "grey", "int64", "16-bit", "video"],
)
def test_images_that_are_a_mistake_of_the_caller_are_refused(always, given, error, words):
    with pytest.raises(error, match=words):
        always(given)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"p": 1.5}, SettingError, "p: 1.5 is no probability"),
        ({"batch_size": 0}, SettingError, "batch_size: 0"),
        ({"style_cache": 0}, SettingError, "style_cache: 0"),
        ({"image_size": 64}, SettingError, "keep their size"),
        ({"iterations": 5}, SettingError, "give evaluations"),
        ({"evaluation": 5}, SettingError, "evaluation"),
        ({"weights": "none.pth"}, WeightsError, "none.pth"),
        ({"styles": []}, ValueError, "styles: none is given"),
        ({"styles": [7]}, TypeError, "styles: a int is neither"),
        ({"styles": "/no/such/folder"}, ValueError, "there is no such file or folder"),
        ({"styles": np.zeros((4, 4))}, ValueError, r"styles: an array of shape \(4, 4\)"),
        ({"style_weights": [1, 2]}, ValueError, "does not fit 1 style sources"),
        ({"style_weights": [0]}, ValueError, "not all 0"),
        ({"style_weights": [float("nan")]}, ValueError, "at least 0"),
    ],
)
def test_arguments_that_are_refused(styles, swift, change, error, words):
    given = {"styles": styles, **swift} | change
    with pytest.raises(error, match=words):
        StylizeTransform(given.pop("styles"), **given)


def test_a_folder_without_images_and_a_file_that_is_none_are_refused(tmp_path, swift):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match="no image files in this folder"):
        StylizeTransform(tmp_path, **swift)
    with pytest.raises(ValueError, match="not an image"):
        StylizeTransform([tmp_path / "notes.txt"], **swift)
