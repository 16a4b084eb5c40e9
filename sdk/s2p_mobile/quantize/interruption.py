"""Stopping long work at a place where its state can be kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from s2p_runtime.errors import S2PError


class Interrupted(S2PError):
    """The user stopped the work; what was done is kept (exit status 3)."""

    exit_status = 3


class StopFlag:
    """Set by the first Ctrl-C; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.requested = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[StopFlag]:
    """While the block runs, Ctrl-C (SIGINT) and SIGTERM set a flag that the work looks at between two steps.

    Signals can be caught in the main thread only; in any other the flag stays down.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, flag._handle) for number in signals]
    try:
        yield flag
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
