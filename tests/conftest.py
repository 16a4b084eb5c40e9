"""Settings of the whole suite."""

from __future__ import annotations

import os

# Tests run in parallel processes; with more than one thread in each, OpenMP's threads wait for each other in busy loops.
os.environ.setdefault("OMP_NUM_THREADS", "1")
