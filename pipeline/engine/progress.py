"""How far a job is: what ``run_job`` tells its caller.

This module loads neither Ray nor PyTorch, so that a command can show something before it does.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Activity:
    """A part of a job, in words: while it lasts, and once it is over."""

    doing: str
    done: str


LOADING_LIBRARIES = Activity("loading PyTorch and Ray", "loaded PyTorch and Ray")
LOADING_WEIGHTS = Activity("loading the weights", "loaded the weights")
CHECKING_MANIFEST = Activity("checking the manifest", "checked the manifest")
TRYING_PAIRS = Activity("trying a few pairs", "tried a few pairs")
STARTING_RAY = Activity("starting Ray", "started Ray")
JOINING_RAY = Activity("joining the Ray cluster", "joined the Ray cluster")
FINDING_MACHINE = Activity("looking for a machine", "found a machine")
STARTING_ACTORS = Activity("starting style actors", "started a style actor")
LOADING_PAIRS = Activity("loading the first pictures", "loaded the first pictures")
STYLIZING = Activity("making pictures", "made the pictures")
CHECKING_RECORDS = Activity("checking the records", "checked the records")
PACKING = Activity("packing shards", "packed the shards")
UPLOADING = Activity("uploading the shards", "uploaded the shards")
WRITING_REPORT = Activity("writing report.html", "wrote report.html")
STOPPING_RAY = Activity("stopping Ray", "stopped Ray")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is. What is not known yet is None.

    Attributes:
        activity: What the job is doing.
        total: Pairs that this run has to do; while shards are packed, shards.
        done: Pairs of them that are finished, well or not; while shards are packed, shards.
        failed: Pairs of ``done`` that ended as errors.
        share: Part of the work that is done, from 0 to 1.
        rate: Pairs a minute at the present speed.
        seconds_left: Seconds until the last pair is finished.
        actors: Style actors that are ready.
        most_actors: Style actors that the job asks for.
        gpu_hours: GPU hours of the actors since they were ready.
        gpu_percent: Mean utilisation of the actors' GPUs.
        cache_hits: Part of the style targets that needed no computing, from 0 to 1.
    """

    activity: Activity
    total: int = 0
    done: int = 0
    failed: int = 0
    share: float | None = None
    rate: float | None = None
    seconds_left: float | None = None
    actors: int = 0
    most_actors: int = 0
    gpu_hours: float = 0.0
    gpu_percent: float | None = None
    cache_hits: float | None = None


OnProgress = Callable[[Progress], None]
"""Takes a job's progress. It is called from several threads and should return at once."""


def unheard(progress: Progress) -> None:
    """Take a job's progress and do nothing."""
