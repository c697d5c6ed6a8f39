"""``StylizedDataset``: a data set whose images are stylised on their way to the DataLoader."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.data.make_manifest.sampling import hash_key
from pipeline.style.serving.batching import Batcher
from pipeline.style.serving.phases import Done
from pipeline.training import images, sharding
from pipeline.training.augmenter import Augmenter, undisturbed
from pipeline.training.images import UnfitError
from pipeline.training.sharding import Sample, Share
from pipeline.training.styles import StyleSource

AHEAD = 4
"""Images drawn for stylising that are read ahead, in slots: the slots of finished images are filled
while the slowest image of the first is still on its way."""

LEAST_P = 0.05
"""Smallest ``p`` for which enough samples are read ahead to fill all slots."""

CPU = torch.device("cpu")


@dataclass(eq=False)
class _Entry:
    """A sample on its way.

    Attributes:
        sample: as the source gave it.
        image: what goes out in the place of its image.
        ready: whether it may go out.
    """

    sample: Any
    image: Any
    ready: bool


class StylizedDataset(IterableDataset[Any]):
    """The samples of a data set in their order, some of their images stylised.

    Images are optimised side by side, and the slot of a finished one is filled at once, whatever
    batch it belongs to. The samples are divided among the workers of a DataLoader and the ranks of
    ``torch.distributed``. All ranks get the same number: of a map-style data set the first samples
    come twice where there are too few, of an iterable one the last are left out. Each worker keeps
    the order of its samples; the DataLoader takes batches from its workers in turn.

    An image that cannot be stylised (less than 16 px on a side, not finite, an unreadable style
    file) stays as it is; the first one in a process causes a warning.

    Args:
        source: a map-style data set (with a length and indices; lists are some) or an iterable.
            Its samples are tuples, lists or mappings with an image, or images alone. Images are PIL
            images or tensors (3, H, W), uint8 or floats in [0, 1]; of any sizes.
        styles: see ``StylizeTransform``.
        p: the probability that an image is stylised.
        batch_size: most images optimised together; 8 on a CPU, 32 on a GPU if None. It has nothing
            to do with the DataLoader's.
        shuffle: read a map-style data set in random order.
        seed: with it the order and the styles depend on nothing but the seed, the epoch
            (``set_epoch``) and a sample's position, whatever the number of workers. Without it they
            come from torch's generator and differ from pass to pass.
        shard: False if the source divides its samples among workers and ranks itself.
        image_key: index or key of the image in a sample; if None, 0 for tuples and lists and
            ``image`` for mappings.
        transform: called with each finished sample, for example a torchvision v2 transform.
        more: all other arguments of ``StylizeTransform``: ``weights``, ``evaluations``,
            ``style_weights``, ``device``, ``style_cache``, ``storage_options`` and style settings.

    Raises:
        SettingError: a setting is unknown or out of range.
        TypeError: a style is neither a picture nor a path; while it is iterated, an image is none,
            or a batch.
        ValueError: a style or its weight cannot be used, or ``shuffle`` does not fit the source;
            while it is iterated, an image has another shape, type or range.
        KeyError: while it is iterated, a sample has no ``image_key``.
        WeightsError: the network's weights cannot be loaded.
        RuntimeError: a GPU cannot be used.
    """

    def __init__(
        self,
        source: Any,
        styles: StyleSource | Sequence[StyleSource],
        *,
        p: float = 0.5,
        batch_size: int | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        shard: bool = True,
        image_key: Any = None,
        transform: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        self._augmenter = Augmenter(styles, p=p, batch_size=batch_size, **more)
        self.source, self.shuffle, self.seed, self.shard = source, shuffle, seed, shard
        self.image_key, self.transform = image_key, transform
        iterable = isinstance(source, IterableDataset)
        self._indexed = (
            not iterable and hasattr(source, "__getitem__") and hasattr(source, "__len__")
        )
        if shuffle and not (self._indexed and shard):
            raise ValueError("shuffle needs a source with a length and indices, and shard")
        # Shared with workers that live on from epoch to epoch.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu")
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._passes = 0
        self._ranks: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tell a worker the rank of this process, which it cannot know if it was not forked."""
        return self.__dict__ | {"_ranks": sharding.ranks_here() or self._ranks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share the epoch with workers, as ``__init__`` does: pickle copies it."""
        self.__dict__.update(state)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Return the number of samples of this rank.

        Raises:
            TypeError: the source has no length.
        """
        count = len(self.source)
        return sharding.share_here(self._ranks).count(count) if self.shard else count

    def set_epoch(self, epoch: int) -> None:
        """Choose another order and other styles for the next pass; only a ``seed`` needs it."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's samples."""
        share = sharding.share_here(self._ranks)
        base = self._base(share)
        if not self.shard:
            # The positions of two workers' samples are the same.
            base, share = hash_key(base, share.rank, share.worker), Share(0, 1, 0, 1)
        if self._indexed:
            order = torch.Generator().manual_seed(base) if self.shuffle else None
            samples = share.of_indexed(self.source, order)
        else:
            samples = share.of_stream(self.source)
        return self._stylized(samples, base)

    def _base(self, share: Share) -> int:
        """Return the seed of this pass, the same for all workers of a rank."""
        if self.seed is not None:
            return hash_key(self.seed, int(self._epoch))
        if self.shuffle and share.ranks > 1:
            raise ValueError("shuffle on several ranks needs a seed, and set_epoch for each epoch")
        self._passes += 1
        info = get_worker_info()
        if info is None:
            return int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        # The loader's own seed, of which each worker has its number more. Workers that live on
        # keep it, but all count the same passes.
        return hash_key(info.seed - info.id, self._passes)

    def _stylized(self, samples: Iterable[Sample], base: int) -> Iterator[Any]:
        device = self._augmenter.device or CPU
        slots = self._augmenter.slots(device)
        batcher = self._augmenter.batcher(device, slots)
        most = math.ceil(AHEAD * slots / max(self._augmenter.p, LEAST_P))
        entries: deque[_Entry] = deque()
        left = iter(samples)
        more = True
        try:
            while True:
                while more and len(batcher) < 2 * slots and len(entries) < most:
                    sample = next(left, None)
                    more = sample is not None
                    if sample is not None:
                        entries.append(self._entered(batcher, sample, base))
                if not entries:
                    return
                if entries[0].ready:
                    entry = entries.popleft()
                    yield self._finished(entry)
                    continue
                with undisturbed(device):
                    outcomes = batcher.tick()
                for key, outcome in outcomes:
                    self._take(key, outcome)
        finally:
            batcher.abandon()

    def _entered(self, batcher: Batcher, sample: Sample, base: int) -> _Entry:
        """Draw for a sample, and submit its image if it is to be stylised."""
        position, value = sample
        entry = _Entry(value, self._image_of(value), ready=True)
        try:
            entry.image, unit = images.opened(entry.image)
            if unit.ndim != 3:
                shape = tuple(unit.shape)
                raise TypeError(f"an image of shape {shape}; for batches: StylizeTransform")
            generator = torch.Generator().manual_seed(hash_key(base, position))
            (style,) = self._augmenter.draw(1, generator)
            if style is not None:
                batcher.submit(entry, self._augmenter.pair(unit, style))
                entry.ready = False
        except UnfitError as error:
            self._augmenter.warn(error)
        return entry

    def _take(self, entry: Any, outcome: Done | Exception) -> None:
        entry.ready = True
        if isinstance(outcome, Exception):
            self._augmenter.warn(outcome)
            return
        entry.image = images.wrapped(images.like(outcome.image, entry.image), entry.image)

    def _key_of(self, sample: Any) -> Any:
        """Return where the image is in a sample; None if the sample is the image."""
        if self.image_key is not None:
            return self.image_key
        if isinstance(sample, (Tensor, Image.Image)):
            return None
        return "image" if isinstance(sample, Mapping) else 0

    def _image_of(self, sample: Any) -> Any:
        key = self._key_of(sample)
        if key is None:
            return sample
        try:
            return sample[key]
        except (LookupError, TypeError) as error:
            held = f"the keys {list(sample)}" if isinstance(sample, Mapping) else type(sample)
            raise KeyError(f"image_key: a sample has no {key!r}; it has {held}") from error

    def _finished(self, entry: _Entry) -> Any:
        """Return a sample with its image in its place."""
        sample, key = entry.sample, self._key_of(entry.sample)
        if key is None:
            sample = entry.image
        elif isinstance(sample, Mapping):
            sample = {**sample, key: entry.image}
        else:
            values = list(sample)
            values[key] = entry.image
            named = isinstance(sample, tuple) and hasattr(sample, "_make")
            sample = sample._make(values) if named else type(sample)(values)
        return sample if self.transform is None else self.transform(sample)
