"""Reports of many devices on one page: a table to each bundle, a row to each device, chips together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import yaml

from s2p_mobile.judge.reports.entries import Entry, printable
from s2p_mobile.judge.reports.table import NONE, heat, megabytes, milliseconds, total_load, validity_notes
from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

_CHIPS = "chips.yaml"
"""Beside this module: chips by identifier, with their sources."""

COLUMNS = (
    "chip",
    "device",
    "system",
    "engine",
    "threads",
    "U-Net call p50, ms",
    "picture p50, ms",
    "picture p90, ms",
    "load, ms",
    "peak, MB",
    "heat",
    "notes",
)


@dataclass(frozen=True)
class FleetRow:
    """A device's figures in words, in the order of :data:`COLUMNS`.

    Attributes:
        bundle: name and first digits of its hash; figures of different bundles do not compare.
        wrong: it drew another picture than the golden one.
    """

    bundle: str
    cells: tuple[str, ...]
    wrong: bool


@cache
def _chips() -> dict[str, str]:
    tables = yaml.safe_load(files(__package__).joinpath(_CHIPS).read_text(encoding="utf-8"))
    return {name.lower(): chip for maker in tables.values() for name, chip in maker["chips"].items()}


def chip_name(report: BenchReport) -> str:
    """The chip of a report's device: its name where the table knows it, else what the device says of itself."""
    device = report.device
    for known in (device.soc, device.model):
        if known is not None and known.lower() in _chips():
            return _chips()[known.lower()]
    return device.soc or f"of {device.model}"


def read_folder(folder: Path) -> list[Entry]:
    """Every report in a folder and its folders, called after its place there.

    Raises:
        S2PError: there is none, or one that cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*.json") if not path.name.startswith("."))
    if not paths:
        raise S2PError(f"{folder} holds no reports", "give a folder with report files (.json)", "reports")
    return [
        Entry(
            printable(str(path.relative_to(folder).with_suffix(""))),
            path,
            read_contract(path, BenchReport, REPORT_FORMAT, REPORT_VERSION),
        )
        for path in paths
    ]


def fleet_rows(entries: Sequence[Entry]) -> list[FleetRow]:
    """A row to each report, by bundle, then by chip, then by speed."""
    return [_row(entry.report) for entry in sorted(entries, key=lambda entry: _order(entry.report))]


def _bundle(report: BenchReport) -> str:
    return printable(f"{report.bundle_name} ({report.bundle_sha256[:12]}), {report.target}")


def _order(report: BenchReport) -> tuple[str, str, float]:
    picture = report.summary_ms.get("image")
    return _bundle(report), chip_name(report).lower(), float("inf") if picture is None else picture.p50


def _row(report: BenchReport) -> FleetRow:
    def time(stage: str, statistic: str) -> str:
        summary = report.summary_ms.get(stage)
        return NONE if summary is None else milliseconds(getattr(summary, statistic))

    load, peak = total_load(report), report.memory.peak_bytes
    threads = report.protocol.threads
    cells = (
        chip_name(report),
        report.device.model,
        report.device.os,
        report.backend.get("unet", NONE),
        NONE if threads is None else str(threads),
        time("unet_call", "p50"),
        time("image", "p50"),
        time("image", "p90"),
        NONE if load is None else milliseconds(load),
        NONE if peak is None else megabytes(peak),
        heat(report) or NONE,
        "; ".join(validity_notes(report)) or NONE,
    )
    return FleetRow(_bundle(report), tuple(map(printable, cells)), not report.validity.fidelity_ok)


def render_fleet(entries: Sequence[Entry]) -> str:
    """The whole page; it loads nothing, and every text of a report is escaped."""
    title = f"s2p-mobile: {len(entries)} reports by chip and bundle"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in COLUMNS)
    sections = []
    for bundle, rows in groupby(fleet_rows(entries), key=lambda row: row.bundle):
        body, last = [], None
        for row in rows:
            # A chip's name stands once above its devices.
            chip = "" if row.cells[0] == last else row.cells[0]
            last = row.cells[0]
            kind = ' class="bad"' if row.wrong else ""
            cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in row.cells[1:])
            body.append(f'<tr><th scope="row">{escape(chip)}</th>{cells}</tr>')
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        sections.append(f"<h2>{escape(bundle)}</h2><div class='wide'>{table}</div>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>\n{style}</style></head>\n<body>\n<h1>{title}</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
