"""What a run says, and how long its parts took, over all calls of the command."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2p_runtime.files import atomic_file

_LINE_SECONDS = 10.0


class Journal:
    """Lines on the terminal and in ``log.txt``; in ``journal.json`` what outlives a call.

    Attributes:
        seconds: part of the run -> what it took, those of interrupted calls added up.
        reached: training -> its last step and that step's loss.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self._file = folder / "log.txt", folder / "journal.json"
        self._began, self._spoke = time.monotonic(), -_LINE_SECONDS
        known = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {"seconds": {}, "reached": {}}
        self.seconds: dict[str, float] = known["seconds"]
        self.reached: dict[str, list[float]] = known["reached"]

    def say(self, line: str) -> None:
        """A line, with the seconds since the command began."""
        text = f"{time.monotonic() - self._began:7.1f} s  {line}"
        print(text, flush=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def on_step(self, phase: str, done: int, steps: int, loss: float) -> None:
        """A training's step; one every few seconds becomes a line."""
        self.reached[phase] = [done, loss]
        now = time.monotonic()
        if now - self._spoke >= _LINE_SECONDS:
            self._spoke = now
            self.say(f"{phase}: step {done} of at most {steps}, loss {loss:.4f}")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the run, also one that is interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            taken = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            with atomic_file(self._file) as scratch:
                scratch.write_text(json.dumps({"seconds": self.seconds, "reached": self.reached}, indent=1) + "\n", "utf-8")
        self.say(f"{name}: {taken:.1f} s")
