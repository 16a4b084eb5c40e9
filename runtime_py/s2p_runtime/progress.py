"""How long work tells where it is, without knowing who listens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Advance(Protocol):
    """Called after each part of a stage."""

    def __call__(self, detail: str = "") -> None:
        """``detail`` is a few words for the end of the line, such as the present loss."""
        ...


class Progress(Protocol):
    """A listener."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Announce a stage of ``total`` equal parts; the value entered is called after each part."""
        ...


class Silent:
    """Nobody listens."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        yield _ignore


def _ignore(detail: str = "") -> None:
    pass
