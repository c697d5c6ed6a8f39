"""Settings out of a command line, as ``stylize`` reads them."""

import argparse

from jobs import _cli
from pipeline.settings import JobSettings, StyleSettings


def settings_of(argv):
    """Settings of the style and of the job."""
    (job, style, _), _ = _cli.read_options(argv, argparse.ArgumentParser(), _cli.JOB_KINDS)
    return StyleSettings(**style), JobSettings(**job)
