"""How long work tells where it is, without knowing who listens: the one protocol for everything, phones included."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias


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


@dataclass(frozen=True)
class ProgressEvent:
    """Where a stage is: told when it begins, with ``done`` 0, and after each of its parts.

    Attributes:
        stage: what is done, in a few words.
        done, total: finished parts, and how many there are. A stage that is stopped early ends below its total.
        detail: a few words on the last part, such as the present loss; often empty.
    """

    stage: str
    done: int
    total: int
    detail: str = ""


Listener: TypeAlias = Callable[[ProgressEvent], None]


class Told:
    """Passes stages on to a function, event by event."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """See :class:`Progress`."""
        done = 0

        def advance(detail: str = "") -> None:
            nonlocal done
            done += 1
            self._listener(ProgressEvent(title, done, total, detail))

        self._listener(ProgressEvent(title, 0, total))
        yield advance


class RunningStages:
    """Stages of work elsewhere that is heard of line by line: a stage begins when it is first heard of, and ends the one before.

    Used as a context, so that the last stage is ended too.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._open = progress, contextlib.ExitStack()
        self._title: str | None = None
        self._advance: Advance = _ignore
        self._done = 0

    def __enter__(self) -> RunningStages:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def tell(self, title: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a stage are finished; a total below that counts as not known."""
        if title != self._title:
            self._open.close()
            self._title, self._done = title, 0
            self._advance = self._open.enter_context(self._progress.stage(title, max(total, done, 1)))
        while self._done < done:
            self._advance()
            self._done += 1
