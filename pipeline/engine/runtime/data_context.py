"""Set Ray Data's settings in this process while a job uses them, and restore them."""

import contextlib
import logging
from collections.abc import Iterator

import ray
import ray.data

from pipeline.engine.runtime import private_ray


@contextlib.contextmanager
def ray_data_settings(verbose: bool) -> Iterator[ray.data.DataContext]:
    """Set the process's settings of Ray Data while the block runs, and yield them.

    There is no checkpoint at first: one would skip all pairs that are done.

    Args:
        verbose: whether Ray Data shows bars and writes its log. Errors reach the caller as
            exceptions in any case.
    """
    settings, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before, level = {name: getattr(settings, name) for name in private_ray.SETTINGS}, logger.level
    try:
        settings.enable_progress_bars = verbose
        settings.print_on_execution_start = verbose
        private_ray.set_up(settings, None)
        if not verbose:
            logger.setLevel(logging.CRITICAL)
        yield settings
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        logger.setLevel(level)
