"""Tables and pages of the benchmarks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from s2p_runtime.files import atomic_file

BY_HAND = "<!-- Below: written by hand, kept when the page is made again. -->"


def mean_and_spread(values: Sequence[float | None], digits: int) -> str:
    """Mean of the known values, and their standard deviation when there are several; ``-`` when none is known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def write_page(path: Path, made: str) -> None:
    """Write a Markdown page; what stands below :data:`BY_HAND` in the page that is there already is kept."""
    notes = path.read_text("utf-8").partition(BY_HAND)[2] if path.exists() else ""
    with atomic_file(path) as scratch:
        scratch.write_text(f"{made}\n{BY_HAND}\n{notes.lstrip()}", "utf-8")
