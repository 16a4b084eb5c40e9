"""Sampling beside the work that is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Periodic:
    """Calls a function with the seconds since the start: at once, then after every interval on a thread, and at the end."""

    def __init__(self, interval: float, function: Callable[[float], None]) -> None:
        self._interval, self._function = interval, function
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._start = 0.0

    def _tell(self) -> None:
        self._function(time.monotonic() - self._start)

    def _loop(self) -> None:
        while not self._stopped.wait(self._interval):
            self._tell()

    def __enter__(self) -> Periodic:
        self._start = time.monotonic()
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()
        if kind is None:
            self._tell()
