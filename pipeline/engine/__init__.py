"""The method and the data, joined on Ray."""

import os

# Before torch is loaded, in Ray's workers too: threads that wait by spinning stand still for each
# other beside load and store tasks.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
