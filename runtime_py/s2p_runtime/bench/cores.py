"""Running on chosen cores."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from s2p_runtime.errors import S2PError

_LARGEST = 1023
"""Largest core that the kernel's default mask holds."""


def parse_cores(text: str) -> tuple[int, ...]:
    """``0,4-7`` as numbers, ascending.

    Raises:
        S2PError: anything else.
    """
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part, re.ASCII)
        if match is None or int(match[2] or match[1]) > _LARGEST:
            raise S2PError(f"{part!r} is not a core", "give cores as 4-7 or 0,2")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise S2PError(f"{part!r} runs backwards", "give cores as 4-7 or 0,2")
        cores.update(range(first, last + 1))
    return tuple(sorted(cores))


@contextlib.contextmanager
def on_cores(cores: tuple[int, ...] | None) -> Iterator[None]:
    """Run this thread, and the threads and processes that it starts, on some cores; None: all.

    Raises:
        S2PError: the system cannot do that, or has none of the cores.
    """
    if cores is None:
        yield
        return
    if sys.platform != "linux":
        raise S2PError("this system does not let programs choose cores", "leave `cores` out", "cores")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise S2PError(f"cannot run on these cores ({error.strerror})", "choose others with `cores`", "cores") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
