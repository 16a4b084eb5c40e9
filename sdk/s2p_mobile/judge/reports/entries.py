"""Reading the reports that are to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport


def printable(text: str) -> str:
    """Text of a report without what could move a terminal's cursor or reverse the direction of writing."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


@dataclass(frozen=True)
class PlacementComparison:
    """Where operators run, held against a target's rules.

    Attributes:
        lines: for people; one that says why where there is no comparison.
        figures: the same for programs, JSON-able, one to a program of the bundle.
    """

    lines: tuple[str, ...]
    figures: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One report under the name that it has in the comparison.

    Attributes:
        label: unique among the reports compared.
        path: of the file.
        placement: against the rules of the bundle's target; None: nobody asked.
    """

    label: str
    path: Path
    report: BenchReport
    placement: PlacementComparison | None = None


def read_entries(paths: Sequence[Path], labels: Sequence[str] = ()) -> list[Entry]:
    """Read reports. Without ``labels`` each is called after its file.

    Raises:
        S2PError: a file is no report or of a newer version, two labels are equal, or there are not as many labels as reports.
    """
    if labels and len(labels) != len(paths):
        raise S2PError(
            f"there are {len(paths)} reports and {len(labels)} labels", "give `labels` for all of them, in order", "labels"
        )
    names = [printable(label) for label in labels] or [printable(path.stem) for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise S2PError(f"two reports are called {twice[0]!r}", "give each its own name with `labels`, in order", "labels")
    reports = [read_contract(path, BenchReport, REPORT_FORMAT, REPORT_VERSION) for path in paths]
    return [Entry(name, path, report) for name, path, report in zip(names, paths, reports, strict=True)]
