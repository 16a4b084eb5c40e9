"""How long work tells where it is, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[], None]


class Progress(Protocol):
    """A listener."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Announce a stage of ``total`` equal parts; the value entered is called after each part."""
        ...


class Silent:
    """Nobody listens."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        yield lambda: None
