"""Freed memory goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from s2p_runtime.allocator import give_back_large_blocks

if sys.argv[1] == "set":
    assert give_back_large_blocks()
np.ones(24 << 17).sum()  # 24 MiB, freed: glibc now takes blocks of that size from the heap
blocks = [np.ones(20 << 17) for _ in range(12)]
del blocks[::2]
pages = int(Path("/proc/self/statm").read_text().split()[1])
print(pages * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_holes_between_blocks_are_not_kept() -> None:
    """Every other one of 12 blocks of 20 MiB is freed: by default nothing goes back to the system, since the last one stays."""
    used = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, check=True).stdout)
        for mode in ("default", "set")
    }
    # Six blocks are 120 MiB; the rest of the two processes is the same to a few MiB.
    assert used["default"] - used["set"] > 100 << 20
