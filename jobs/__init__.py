"""Entry points for ``python -m jobs.NAME`` and ``ray job submit``."""

import os

# Before torch is loaded: threads that wait by spinning slow each other down by tens of times as
# soon as anything else wants a core, and beside a style actor there are load and store tasks.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
