"""``s2p-mobile report``"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import s2p_mobile
from s2p_mobile.cli.console import emit_json, say
from s2p_mobile.cli.options import ForceOption, JsonOption

if TYPE_CHECKING:
    from s2p_mobile.judge.reports import Entry

_PIPE_WIDTH = 160
"""Columns where nobody's terminal sets a width."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Reports (.json) of any harness, ratios are to the first; or a folder of reports of many devices."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="Name of a report in the comparison, in order; the files' names when left out."),
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle",
            metavar="DIR",
            help="Bundle that was measured: for its golden pictures and rules of placement; may be repeated.",
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = None,
) -> None:
    """Compare reports: a table here, and one HTML file with charts and pictures that opens without a network."""
    from s2p_mobile.judge.reports import figures

    entries = s2p_mobile.report(reports, out=out, labels=labels or (), bundles=bundles or (), force=force)
    if reports[0].is_dir():
        _print_fleet(entries, json)
    else:
        print_table(entries, json)
    for entry in entries:
        for line in entry.placement.lines if entry.placement is not None else ():
            say(line if len(entries) == 1 else f"{entry.label}: {line}", json)
    say(f"report: {out}", json)
    emit_json(json, figures(entries))


def _print_fleet(entries: Sequence[Entry], json: str | None) -> None:
    """A line to each device, by bundle and chip."""
    from s2p_mobile.judge.reports import COLUMNS, fleet_rows

    table = Table("bundle", *COLUMNS, box=None, pad_edge=False)
    for row in fleet_rows(entries):
        table.add_row(*(Text(cell, style="red" if row.wrong else "") for cell in (row.bundle, *row.cells)))
    _console(json).print(table)


def _console(json: str | None) -> Console:
    console = Console(file=sys.stderr if json == "-" else sys.stdout)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def print_table(entries: Sequence[Entry], json: str | None) -> None:
    """The main figures side by side, on stdout, or on stderr when stdout carries JSON."""
    from s2p_mobile.judge.reports import compact_rows, comparison_notes

    console = _console(json)
    # Text and not str: square brackets in a report are no markup.
    table = Table("", box=None, pad_edge=False)
    for entry in entries:
        table.add_column(Text(entry.label))
    for row in compact_rows(entries):
        cells = []
        for cell in row.cells:
            text = Text(cell.text, style="red" if cell.bad else "")
            cells.append(text if cell.ratio is None else text.append(f"  {cell.ratio:.2f}x", style="dim"))
        table.add_row(Text(row.title), *cells)
    console.print(table)
    for note in comparison_notes(entries):
        say(f"note: {note}", json)
