"""The lanes of a batcher.

Lanes are made when they are needed. Some are kept when they are empty. They get fewer slots where
the device's memory was too small for all of them.
"""

from dataclasses import dataclass

import torch

from pipeline.settings import StyleSettings
from pipeline.style.hardware.device_faults import give_back
from pipeline.style.hardware.graphs import recorder_of
from pipeline.style.method.targets import Size
from pipeline.style.network.vgg import VGG, half_precision
from pipeline.style.serving.lanes import Lane

IDLE_LANES = 4
"""Most empty lanes that are kept, since the same kind is often needed again."""

HALF_SINCE = 7
"""Lowest major compute capability of GPUs that convolve in 16 bits."""

LaneKey = tuple[Size, bool, StyleSettings, bool]
"""Image size (H, W), whether the network works in 16 bits, the settings that the pairs share, and
whether the lane has a single slot, for a pair that may end the process."""


@dataclass(frozen=True)
class Fit:
    """What memory had room for.

    Attributes:
        slots: slots of the lane.
        others: other lanes that existed then.
    """

    slots: int
    others: int


def check_precision(settings: StyleSettings, device: torch.device) -> None:
    """Check that a device convolves in the types that ``settings`` ask for.

    Raises:
        RuntimeError: the precision is mixed, and the GPU does not convolve in 16 bits.
    """
    if settings.precision != "mixed" or device.type != "cuda" or torch.version.cuda is None:
        return
    major, minor = torch.cuda.get_device_capability(device)
    if major < HALF_SINCE:
        raise RuntimeError(
            f"precision: mixed needs a GPU of compute capability {HALF_SINCE}.0 or newer, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}; give --precision float32"
        )


class LanePool:
    """Lanes by key.

    Args:
        network: in float32, on the device to be used.
        slots: slots of a lane, if memory has room for them.
        low_memory: see ``Objective``.
    """

    def __init__(self, network: VGG, slots: int, *, low_memory: bool = False) -> None:
        self.network, self.slots, self.low_memory = network, slots, low_memory
        self.half: VGG | None = None  # the same network in 16 bits
        self.recorder = recorder_of(network.device)
        self.lanes: dict[LaneKey, Lane] = {}
        self.fits: dict[tuple[Size, bool], Fit] = {}

    def lane(self, key: LaneKey) -> Lane:
        """Return the lane of this key. Make it if there is none."""
        if key not in self.lanes:
            idle = self._idle()
            for other in idle[: max(0, len(idle) + 1 - IDLE_LANES)]:
                del self.lanes[other]
            size, half, settings, _ = key
            self.lanes[key] = Lane(
                self._network(half),
                size,
                self.slots_of(key),
                settings,
                low_memory=self.low_memory,
                recorder=self.recorder,
            )
        return self.lanes[key]

    def slots_of(self, key: LaneKey) -> int:
        """Return how many slots this key's lane has, or would have if it were made now."""
        if key in self.lanes:
            return self.lanes[key].slots
        if key[3]:
            return 1
        fit = self.fits.get(key[:2])
        return self.slots if fit is None or len(self.lanes) < fit.others else fit.slots

    def drop(self, key: LaneKey) -> None:
        """Give up the lane of this key, if there is one."""
        self.lanes.pop(key, None)
        give_back()

    def drop_idle(self, but: LaneKey) -> bool:
        """Give up all empty lanes but this one. Returns whether there were any."""
        others = [key for key in self._idle() if key != but]
        for key in others:
            del self.lanes[key]
        if others:
            give_back()
        return bool(others)

    def narrow(self, key: LaneKey, slots: int) -> None:
        """Note how many slots the next lane of this size and type gets, after one was given up."""
        self.fits[key[:2]] = Fit(slots, len(self.lanes))

    def _idle(self) -> list[LaneKey]:
        return [key for key, lane in self.lanes.items() if not lane.traces]

    def _network(self, half: bool) -> VGG:
        if not half:
            return self.network
        if self.half is None:
            self.half = half_precision(self.network)
        return self.half
