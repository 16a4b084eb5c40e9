"""Where glibc's allocator takes large blocks from."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGE = 4 << 20
_KEPT = 64 << 20


def give_back_large_blocks(at_least: int = LARGE) -> bool:
    """Let the process give every freed block of some size back to the system at once; for programs of large networks.

    Args:
        at_least: bytes.

    By default glibc raises its threshold for separate mappings to the size of the blocks that are freed, up to 32 MiB. Activations
    of a Stable Diffusion U-Net, mostly 20 MiB in float64, then come from the heap, which they leave full of holes: after 254
    operations of SD v1-4 at 64x64 latents the interpreter held 3.8 GiB, and 1.15 GiB with this threshold.

    Smaller blocks come from the heap, whose free end up to 64 MiB is kept: setting the one threshold fixes the other at 128 KiB, and
    attention that works through small blocks would ask the system for the same pages again and again, three times its own time.

    Returns:
        Whether it was set: False on systems without glibc, which are left as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, at_least) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def give_back_free_blocks() -> bool:
    """Give every page of the heap that holds nothing back to the system, those between blocks in use too.

    A stage leaves the heap full of holes below :func:`give_back_large_blocks`'s limit, which the next stage's blocks do not fit.

    Returns:
        Whether anything was given back: False on systems without glibc.
    """
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False
