"""What commands print: figures on stdout, JSON where it was asked for, notes on stderr. Progress is the API's own."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

from s2p_runtime.errors import S2PWarning
from s2p_runtime.files import atomic_file


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


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """While the block runs, warnings of the library are lines ``note: ...`` on stderr, each time that they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", S2PWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, S2PWarning):
                typer.echo(f"note: {message}", err=True)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def size(count: int) -> str:
    """Bytes for people, decimal units: ``2.4 MB``."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
