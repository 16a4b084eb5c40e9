"""Tables of the benchmarks' pages."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


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
