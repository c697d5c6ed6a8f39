"""``StylizedDataset``, with torch's own DataLoader, over data sets of several kinds."""

import copy
import io
import pickle
import warnings
from collections import namedtuple
from itertools import chain

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline import StylizedDataset
from pipeline.style.serving.batching import Batcher
from pipeline.training import sharding
from pipeline.training.sharding import Share
from tests.conftest import image_bytes, picture


def pil(seed=0, height=32, width=32):
    values = (picture(seed, height, width).permute(1, 2, 0) * 255).byte().numpy()
    return Image.fromarray(values)


def samples(count=10):
    return [(picture(index, 32, 32), index) for index in range(count)]


@pytest.fixture
def stylized(styles, swift):
    """A maker of data sets in which every image is stylised."""
    return lambda source, **more: StylizedDataset(source, styles, **{"p": 1, **swift, **more})


def changed(made, source):
    return [not torch.equal(image, source[label][0]) for image, label in made]


def test_the_order_is_kept_and_p_decides_for_each_image(stylized):
    source = samples(12)
    torch.manual_seed(3)
    made = list(stylized(source, p=0.5, batch_size=3))
    assert [label for _, label in made] == list(range(12))
    assert 0 < sum(changed(made, source)) < 12
    assert all(changed(stylized(source, batch_size=3), source))
    assert not any(changed(stylized(source, p=0), source))


def test_the_draws_come_from_torchs_generator_and_differ_from_pass_to_pass(stylized):
    dataset = stylized(samples(8), p=0.5)
    torch.manual_seed(3)
    first, second = changed(dataset, samples(8)), changed(dataset, samples(8))
    torch.manual_seed(3)
    assert changed(dataset, samples(8)) == first
    assert second != first


def test_slots_are_filled_again_before_a_batch_is_done(stylized, monkeypatch):
    """Ten images in slots of four need ten images' ticks: no slot waits for its batch's last."""
    source, busy = samples(10), []
    real = Batcher.tick
    monkeypatch.setattr(Batcher, "tick", lambda self: (real(self), busy.append(self.busy))[0])
    dataset = stylized(source, batch_size=4, evaluations=4)
    assert len(list(DataLoader(dataset, batch_size=2))) == 5
    assert len(busy) == 4 * 3, "three fillings of four evaluations"


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


Named = namedtuple("Named", "image label")


@pytest.mark.parametrize(
    ("source", "get"),
    [
        (Stream(samples(3)), lambda made: made[0]),
        (iter(samples(3)), lambda made: made[0]),
        (TensorDataset(torch.stack([i for i, _ in samples(3)]), torch.arange(3)), lambda m: m[0]),
        ([{"image": image, "label": label} for image, label in samples(3)], lambda m: m["image"]),
        ([Named(*sample) for sample in samples(3)], lambda made: made.image),
        ([list(sample) for sample in samples(3)], lambda made: made[0]),
        ([image for image, _ in samples(3)], lambda made: made),
    ],
    ids=["IterableDataset", "iterator", "TensorDataset", "mappings", "named", "lists", "images"],
)
def test_samples_of_any_form_keep_it(stylized, source, get):
    made = list(stylized(source))
    assert len(made) == 3
    for index, sample in enumerate(made):
        assert get(sample).shape == (3, 32, 32)
        assert not torch.equal(get(sample), picture(index, 32, 32))
    assert isinstance(made[0], (tuple, list, dict, torch.Tensor))
    assert not hasattr(source, "_fields") or hasattr(made[0], "_fields")


def test_images_of_several_kinds_and_sizes_come_back_as_they_were(stylized):
    source = [
        (pil(0, 32, 48), "a"),
        ((picture(1, 40, 32) * 255).byte(), "b"),
        (tv_tensors.Image(picture(2, 32, 32)), "c"),
        (pil(3).convert("L"), "d"),
    ]
    made = list(stylized(source))
    assert [label for _, label in made] == list("abcd")
    assert [type(image) for image, _ in made] == [type(image) for image, _ in source]
    assert made[0][0].size == (48, 32)
    assert made[1][0].dtype == torch.uint8
    assert made[3][0].mode == "RGB"


def test_the_image_may_be_under_another_key_and_a_transform_comes_last(stylized):
    source = [{"picture": pil(index), "label": index} for index in range(2)]
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    made = list(stylized(source, image_key="picture", transform=to_float))
    assert made[1]["picture"].dtype == torch.float32
    with pytest.raises(KeyError, match=r"no 'image'; it has the keys \['picture', 'label'\]"):
        list(stylized(source))


@pytest.mark.parametrize("source", [samples(), Stream(samples())], ids=["indexed", "stream"])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_divide_the_samples(stylized, source, workers):
    loader = DataLoader(stylized(source, seed=1), batch_size=2, num_workers=workers)
    labels = [batch[1].tolist() for batch in loader]
    if workers:
        assert labels == [[0, 2], [1, 3], [4, 6], [5, 7], [8], [9]]
    else:
        assert labels == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize("persistent", [False, True])
def test_with_a_seed_workers_change_nothing_and_epochs_do(stylized, persistent):
    source = samples(8)

    def by_label(batches):
        return {int(n): image for batch in batches for image, n in zip(*batch, strict=True)}

    dataset = stylized(source, p=0.5, seed=7, shuffle=True)
    alone = by_label(DataLoader(dataset, batch_size=4))
    loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=persistent)
    divided = by_label(loader)
    assert sorted(divided) == list(range(8))
    assert all(torch.equal(alone[label], divided[label]) for label in alone)
    dataset.set_epoch(1)
    later = by_label(loader)
    assert sorted(later) == list(range(8))
    assert list(later) != list(divided), "another order"
    assert any(not torch.equal(later[label], divided[label]) for label in later)


@pytest.mark.parametrize("persistent", [False, True])
def test_without_a_seed_workers_agree_on_an_order_that_changes(stylized, persistent):
    dataset = stylized(samples(12), p=0, shuffle=True)
    loader = DataLoader(dataset, batch_size=3, num_workers=2, persistent_workers=persistent)
    torch.manual_seed(0)
    orders = [[label for batch in loader for label in batch[1].tolist()] for _ in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders), "each sample once"
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 2), (3, 1), (4, 3)])
def test_all_ranks_get_the_same_number_of_samples(count, ranks, workers):
    source = list(range(count))
    shares = [[Share(r, ranks, w, workers) for w in range(workers)] for r in range(ranks)]

    def read(of):
        return [[s for share in rank for _, s in of(share)] for rank in shares]

    indexed = read(lambda share: share.of_indexed(source, torch.Generator().manual_seed(5)))
    assert {len(rank) for rank in indexed} == {-(-count // ranks)}
    assert {*chain(*indexed)} == {*source}
    stream = read(lambda share: share.of_stream(iter(source)))
    assert {len(rank) for rank in stream} == {count // ranks}
    assert sorted(chain(*stream)) == source[: count // ranks * ranks]


def test_a_worker_learns_the_rank_of_the_process_that_made_it(stylized, monkeypatch):
    dataset = stylized(samples(9), p=0, seed=1)
    monkeypatch.setattr(sharding, "ranks_here", lambda: (1, 2))
    assert len(dataset) == 5
    data = pickle.dumps(dataset)
    monkeypatch.undo()
    copied = pickle.loads(data)
    assert [label for _, label in copied] == [1, 3, 5, 7, 0]
    assert [label for _, label in dataset] == list(range(9))


def test_a_process_that_joins_the_ranks_later_reads_its_own_share(stylized, monkeypatch):
    """As torch.multiprocessing.spawn and Ray Train start processes, with the data set pickled."""
    copied = pickle.loads(pickle.dumps(stylized(samples(9), p=0, seed=1)))
    assert [label for _, label in copied] == list(range(9))
    monkeypatch.setattr(sharding, "ranks_here", lambda: (1, 2))
    assert [label for _, label in copied] == [1, 3, 5, 7, 0]


@pytest.mark.parametrize("copied", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy])
def test_workers_of_a_copy_learn_of_a_new_epoch(stylized, copied):
    dataset = copied(stylized(samples(8), p=0, seed=7, shuffle=True))
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        orders.append([label for batch in loader for label in batch[1].tolist()])
    assert orders[0] != orders[1]


def test_a_source_that_divides_its_samples_itself_is_read_whole(stylized, monkeypatch):
    dataset = stylized(samples(4), p=0.5, seed=1, shard=False)
    kept = {}
    for rank in (0, 1):
        monkeypatch.setattr(sharding, "ranks_here", lambda rank=rank: (rank, 2))
        kept[rank] = changed(dataset, samples(4))
        assert len(dataset) == len(kept[rank]) == 4
    assert kept[0] != kept[1], "positions are the same, and draws are not"


def test_images_that_fail_stay_as_they_are_with_one_warning(stylized):
    source = samples(5)
    source[1] = (torch.full((3, 32, 32), torch.nan), 1)
    source[2] = (picture(2, 32, 8), 2)
    source[3] = (Image.open(io.BytesIO(image_bytes(3, 32, 32)[:900])), 3)  # half of a file
    dataset = stylized(source)
    with pytest.warns(RuntimeWarning) as told:
        made = list(dataset)
    assert len(told) == 1
    assert "an image was not stylised: a value of it is not finite" in str(told[0].message)
    assert [label for _, label in made] == list(range(5))
    stay = [image is source[label][0] for image, label in made]
    assert stay == [False, True, True, True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(dataset)) == 5


def test_a_pair_that_fails_in_the_batcher_stays_too(stylized, monkeypatch):
    real = Batcher.tick

    def tick(self):
        return [
            (key, MemoryError("too large") if key.sample[1] == 1 else outcome)
            for key, outcome in real(self)
        ]

    monkeypatch.setattr(Batcher, "tick", tick)
    with pytest.warns(RuntimeWarning, match="not stylised: too large"):
        made = list(stylized(samples(3)))
    assert changed(made, samples(3)) == [True, False, True]


def test_a_loop_that_breaks_off_leaves_nothing_for_the_next(stylized):
    dataset = stylized(samples(6), seed=1)
    first = next(iter(dataset))
    both = zip(dataset, dataset, strict=True)  # two at a time
    for (image, label), (other, same) in both:
        assert label == same
        assert torch.equal(image, other)
    assert torch.equal(next(iter(dataset))[0], first[0])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ([("a.png", 0)], TypeError, "a str is no image"),
        ([(torch.zeros(2, 3, 32, 32), 0)], TypeError, "for batches: StylizeTransform"),
        ([(picture(0, 32, 32) - 1, 0)], ValueError, "normalise it after this step"),
        ([7], KeyError, "no 0; it has <class 'int'>"),
    ],
)
def test_what_is_no_sample_is_refused(stylized, source, error, words):
    with pytest.raises(error, match=words):
        list(stylized(source))


def test_shuffle_is_refused_where_it_cannot_be(stylized, monkeypatch):
    for source, more in ((Stream([]), {}), (samples(), {"shard": False})):
        with pytest.raises(ValueError, match="shuffle needs a source with a length"):
            stylized(source, shuffle=True, **more)
    monkeypatch.setattr(sharding, "ranks_here", lambda: (1, 2))
    with pytest.raises(ValueError, match="several ranks needs a seed"):
        iter(stylized(samples(), shuffle=True))
    with pytest.raises(TypeError):
        len(stylized(Stream([])))
