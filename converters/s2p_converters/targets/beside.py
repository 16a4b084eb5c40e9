"""Programs around the U-Net, lowered by a process of its own while this one lowers the U-Net.

Lowering keeps one core busy, mostly in Python; two processes use two. The other one writes into a folder of its own, so that neither
sees half of what the other writes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from s2p_converters.core.resources import available_memory
from s2p_converters.targets.needs import LIBRARIES, float_bytes
from s2p_converters.targets.registry import TARGETS
from s2p_converters.targets.task import Task
from s2p_runtime.child_process import Said, ToldError
from s2p_runtime.component import Component
from s2p_runtime.errors import S2PError

TOGETHER = 6 << 30
"""Memory that two processes may take together, bytes: enough for small models. What is of SD v1-4's size is lowered by one process,
so that its peak is that of the larger part and not of both."""
WORKER = (sys.executable, "-P", "-m", "s2p_converters.targets.beside_worker")
_COPIES = 4
"""Of the weights in float32, while a component is lowered."""
_PATIENCE = 10.0
"""Seconds that the process has to clean up when it is told to end."""


class Request(BaseModel):
    """What the process is asked for, one line of JSON; lines with the names of components follow.

    Attributes:
        checkpoint: its folder.
        target: by name.
        options: of the target.
        folder: to write into; each component has a folder of its name there.
        shapes: latent height and width by method, the own size first.
        kept: see :mod:`s2p_converters.targets.kept_programs`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path
    target: str
    options: dict[str, Any]
    folder: Path
    shapes: dict[str, tuple[int, int]]
    kept: Path | None


class Answer(BaseModel):
    """A component, or why there is none; one line of JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    component: Component | None = None
    error: ToldError | None = None

    def take(self) -> Component | None:
        """The component.

        Raises:
            S2PError, OSError: the error that stands in its place.
        """
        if self.error is not None:
            raise self.error.meant()
        return self.component


def room_beside(task: Task) -> bool:
    """Whether two processes may lower at once: the target lowers in this one, torch may use several threads, and memory is enough.
    A target that no list names cannot be found by another process."""
    target = task.target
    listed = target.name in TARGETS.names and TARGETS.get(target.name) is target
    if not (listed and target.lowers_here and torch.get_num_threads() > 1):
        return False
    needed = target.memory(task.checkpoint, task.options) + LIBRARIES + _COPIES * float_bytes(task.checkpoint)
    free = available_memory()
    return needed <= (TOGETHER if free is None else min(TOGETHER, free))


class Beside:
    """The process, and the components that are still to be lowered: it takes the first of them, whoever is free here the last.

    The process starts with the context, and ends with it. It only saves time: where it ends early, for want of memory perhaps, what
    it was given is left for this one.
    """

    def __init__(self, task: Task, names: Sequence[str]) -> None:
        """
        Args:
            names: of the components to lower.
        """
        self._folder = task.folder
        self._waiting = deque(names)
        self._found: dict[str, Future[Component | None]] = {name: Future() for name in names}
        self._said = Said()
        self._scratch = tempfile.TemporaryDirectory(dir=task.folder.parent, prefix=f"{task.folder.name}.beside-")
        asked = Request(
            checkpoint=task.checkpoint.folder.resolve(), target=task.target.name, options=task.options.model_dump(mode="json"),
            folder=Path(self._scratch.name).resolve(), shapes=dict(task.shapes),
            kept=None if task.kept is None else task.kept.resolve(),
        )  # fmt: skip
        self._request = asked.model_dump_json()

    def __enter__(self) -> Beside:
        # Answers have a pipe of their own: libraries print when they like.
        answers, told = os.pipe()
        # One thread: it shares the machine with another process, and several of each would wait for each other in busy loops.
        self._process = subprocess.Popen(
            [*WORKER, str(told)], stdin=subprocess.PIPE, stdout=self._said.file, stderr=self._said.file, text=True,
            encoding="utf-8", pass_fds=[told], env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        os.close(told)
        self._answers = os.fdopen(answers, encoding="utf-8", errors="replace")
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.clear()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # it ends with its input
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._answers.close()
        self._said.close()
        self._scratch.cleanup()

    def another(self) -> str | None:
        """The name of a component that nobody lowers yet and whoever asks now has to; None: there is none.

        Raises:
            S2PError, OSError: the process met an error.
        """
        for found in self._found.values():
            if found.done():
                found.result()
        return _taken(self._waiting.pop)

    def wait(self, name: str) -> Component | None:
        """What the process made of a component; its files are in the bundle's folder then. None: it ended before, for whatever
        reason, and whoever asks has to lower it.

        Raises:
            S2PError: it cannot be lowered.
            OSError: its files cannot be written.
        """
        component = self._found[name].result()
        if component is not None:
            _merge(Path(self._scratch.name, name), self._folder)
        return component

    def _follow(self) -> None:
        """Give the process one component after another, until an error or the last."""
        lines = [self._request]
        while (name := _taken(self._waiting.popleft)) is not None:
            try:
                found = self._ask([*lines, name])
            except (S2PError, OSError) as error:
                self._found[name].set_exception(error)
                return
            self._found[name].set_result(found)
            if found is None:
                return
            lines = []

    def _ask(self, lines: Sequence[str]) -> Component | None:
        """A component; None where the process has ended.

        Raises:
            S2PError, OSError: that it met.
        """
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):
            stdin.write("".join(f"{line}\n" for line in lines))
            stdin.flush()
        try:
            answer = Answer.model_validate_json(self._answers.readline())
        except ValueError:
            return None
        return answer.take()


def _taken(take: Callable[[], str]) -> str | None:
    try:
        return take()
    except IndexError:
        return None


def _merge(source: Path, target: Path) -> None:
    """Move all that is in a folder into another one, folders with what they are."""
    for path in source.iterdir():
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        else:
            shutil.move(path, place)
