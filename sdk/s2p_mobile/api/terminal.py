"""Progress for people, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from s2p_runtime.progress import Advance

_PLAIN_LINE_SECONDS = 10.0


class TerminalProgress:
    """Progress bars on a terminal; plain lines elsewhere: one per stage, and one every ten seconds of a long one."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """See :class:`s2p_runtime.progress.Progress`."""
        if not self.console.is_terminal:
            with self._plain_stage(title, total) as advance:
                yield advance
            return
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with RichProgress(*columns, TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task(title, total=total)

            def advance(detail: str = "") -> None:
                bar.update(task, advance=1, description=f"{title} {detail}".rstrip())

            yield advance

    @contextlib.contextmanager
    def _plain_stage(self, title: str, total: int) -> Iterator[Advance]:
        start = last = time.monotonic()
        done, said = 0, ""

        def advance(detail: str = "") -> None:
            nonlocal done, last, said
            done, said = done + 1, detail
            now = time.monotonic()
            if done < total and now - last >= _PLAIN_LINE_SECONDS:
                last = now
                left = (now - start) / done * (total - done)
                print(f"{title}: {done}/{total}, {left:.0f} s left  {detail}".rstrip(), file=sys.stderr, flush=True)

        yield advance
        print(f"{title}: {time.monotonic() - start:.1f} s  {said}".rstrip(), file=sys.stderr, flush=True)
