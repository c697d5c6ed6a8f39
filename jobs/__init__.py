"""Entry points for ``python -m jobs.NAME`` and ``ray job submit``."""

import os
import sys

from jobs._environment import say_what_is_missing

if sys.argv[:1] == ["-m"]:  # Python is looking for the module of python -m jobs.NAME
    say_what_is_missing()

# Before torch is loaded: threads that wait by spinning slow each other down by tens of times as
# soon as anything else needs a core, and load and store tasks run next to a style actor.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before ray is loaded: what Ray calls a cluster on Windows or macOS listens on all interfaces, and
# so does any Ray on Linux, even one that a job starts for itself. Jobs that join a cluster must not
# set this, since their workers are elsewhere.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
