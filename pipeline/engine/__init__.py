"""Jobs on Ray: the method applied to the data."""

import os

# Set before torch is loaded, in Ray's workers too. Threads that wait by spinning block each other
# when load and store tasks want their cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
