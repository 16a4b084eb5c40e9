"""What commands print: progress on stderr, figures on stdout, JSON where it was asked for."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from s2p_runtime.files import atomic_file
from s2p_runtime.progress import Advance

if TYPE_CHECKING:
    from s2p_runtime.bundle import Bundle

_PLAIN_LINE_SECONDS = 10.0
_NAMED_FILES = 5


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
        done = 0

        def advance(detail: str = "") -> None:
            nonlocal done, last
            done += 1
            now = time.monotonic()
            if done < total and now - last >= _PLAIN_LINE_SECONDS:
                last = now
                left = (now - start) / done * (total - done)
                print(f"{title}: {done}/{total}, {left:.0f} s left  {detail}".rstrip(), file=sys.stderr, flush=True)

        yield advance
        print(f"{title}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def say(line: str, json_target: str | None = None) -> None:
    """Print a line for people: on stdout, or on stderr when stdout carries JSON."""
    typer.echo(line, err=json_target == "-")


def emit_json(target: str | None, value: dict[str, Any]) -> None:
    """Write figures as JSON to a file or, with ``-``, to stdout."""
    if target is None:
        return
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        typer.echo(text, nl=False)
        return
    with atomic_file(Path(target)) as scratch:
        scratch.write_text(text, encoding="utf-8")


def warn_unlisted(bundle: Bundle) -> None:
    """Name files in a bundle's folder that its manifest does not list, on stderr."""
    names = bundle.unlisted
    if names:
        shown = ", ".join(names[:_NAMED_FILES]) + (
            f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
        )
        say(f"note: not part of {bundle.folder.name}, neither checked nor read: {shown}", "-")


def size(count: int) -> str:
    """Bytes for people, decimal units: ``2.4 MB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
