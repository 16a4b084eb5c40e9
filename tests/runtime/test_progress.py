"""How work tells where it is: events for a function, and stages of work elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from s2p_runtime.progress import Advance, ProgressEvent, RunningStages, Told


class Heard:
    """A listener that writes down how stages end."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(detail: str = "") -> None:
            nonlocal done
            done += 1

        try:
            yield advance
        finally:
            self.lines.append(f"{title} {done}/{total}")


def test_a_function_hears_the_beginning_and_every_part() -> None:
    events: list[ProgressEvent] = []
    with Told(events.append).stage("rounding", 2) as advance:
        assert events == [ProgressEvent("rounding", 0, 2)]
        advance()
        advance("loss 0.1")
    assert events[1:] == [ProgressEvent("rounding", 1, 2), ProgressEvent("rounding", 2, 2, "loss 0.1")]


def test_stages_of_work_elsewhere() -> None:
    heard = Heard()
    with RunningStages(heard) as stages:
        for title, done, total in (
            ("copying", 0, 2), ("copying", 2, 2), ("loading", 3, 3), ("measured pictures", 1, 2), ("measured pictures", 2, 2),
            ("memory pass", 1, 1), ("of unknown length", 0, 0), ("longer than said", 3, 2),
        ):  # fmt: skip
            stages.tell(title, done, total)
        assert heard.lines[-1] == "of unknown length 0/1"
    assert heard.lines == [
        "copying 2/2", "loading 3/3", "measured pictures 2/2", "memory pass 1/1", "of unknown length 0/1",
        "longer than said 3/3",
    ]  # fmt: skip


def test_the_last_stage_ends_when_the_work_fails() -> None:
    heard = Heard()
    with pytest.raises(KeyboardInterrupt), RunningStages(heard) as stages:
        stages.tell("warm-up", 1, 3)
        raise KeyboardInterrupt
    assert heard.lines == ["warm-up 1/3"]
