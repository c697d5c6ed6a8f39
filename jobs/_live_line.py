"""The words and the bar of the line that a command shows while it works.

This module loads only the standard library, like ``_terminal``.
"""

from dataclasses import dataclass

from pipeline.data.words import duration
from pipeline.engine.progress import PACKING, STARTING_ACTORS, STYLIZING, Progress

BAR = (10, 30)
"""Fewest and most columns of the bar."""


@dataclass(frozen=True)
class Marks:
    """Characters of the live line, some of which a terminal may lack."""

    spinner: str
    full: str
    empty: str
    between: str
    tick: str


UNICODE = Marks("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "━", "─", " · ", "✓")
ASCII = Marks("|/-\\", "#", "-", ", ", "*")


def live_line(
    progress: Progress, seconds: float, width: int, marks: Marks, spinner: str, *, verbose: bool
) -> str:
    """Return the live line, without the least important parts where they do not fit.

    Args:
        progress: what is shown.
        seconds: how long the activity has lasted.
        width: most columns.
        marks: characters of the bar.
        spinner: first character.
        verbose: include figures for experts.
    """
    (first, *wanted), more = pieces(progress, seconds, verbose)
    text = first
    for some, room in ((wanted, width), (more, width - BAR[0] - 2)):
        for piece in some:
            longer = marks.between.join((text, piece))
            text = longer if len(longer) + 2 <= room else text
    room = min(BAR[1], width - len(text) - 4)
    if progress.activity == STYLIZING and room >= BAR[0]:
        full = int(room * (progress.share or 0.0))
        return f"{spinner} {marks.full * full}{marks.empty * (room - full)}  {text}"
    return f"{spinner} {text}"[:width]


def pieces(progress: Progress, seconds: float, verbose: bool) -> tuple[list[str], list[str]]:
    """Return the parts of a line about a job, the most important first.

    Args:
        progress: what is shown.
        seconds: how long the activity has lasted.
        verbose: include figures for experts.

    Returns:
        Parts that are more important than the bar, and parts that are less.
    """
    if progress.activity != STYLIZING:
        counts = {
            STARTING_ACTORS: (progress.actors, progress.most_actors),
            PACKING: (progress.done, progress.total),
        }
        done, total = counts.get(progress.activity, (0, 0))
        of = f" ({done} of {total})" if total else ""
        return [f"{progress.activity.doing}{of}", duration(seconds)], []
    found = [f"{progress.done}/{progress.total} pairs"]
    if progress.failed:
        found.append(f"{progress.failed} failed")
    if progress.total and progress.done == progress.total:
        found.append("saving the last")
    elif progress.seconds_left is not None:
        found.append(f"{_about(progress.seconds_left)} left")
    else:
        found.append(duration(seconds))
    if progress.rate is not None:
        found.append(f"{_figure(progress.rate)} a minute")
    more = []
    if progress.actors < progress.most_actors:
        more.append(f"{progress.actors} of {progress.most_actors} actors")
    if progress.gpu_percent is not None:
        more.append(f"GPU {progress.gpu_percent:.0f}%")
    if verbose and progress.cache_hits is not None:
        more.append(f"style cache {progress.cache_hits:.0%}")
    return found, more


def outcome(progress: Progress) -> str:
    """Return the result of an activity in words."""
    if progress.activity != STYLIZING:
        return progress.activity.done
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done}/{progress.total} pairs{failed}"


def _about(seconds: float) -> str:
    """Return a time that is roughly known, in words."""
    if seconds < 100:
        return duration(max(1, seconds))
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _figure(number: float) -> str:
    return f"{number:.0f}" if number >= 20 else f"{number:.2g}"
