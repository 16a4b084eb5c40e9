"""What a report must be to stand among those that people contribute, docs/results-devices."""

from __future__ import annotations

import re
from pathlib import Path

from s2p_runtime.contract import read_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

MOST_BYTES = 1_000_000
EXAMPLE = "example"
"""Beginning of the names of files, and the harness' version inside of them, that show the form and are of no device."""
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.json")
_PRIVATE = re.compile(r"/(?:home|Users|root)/|[A-Z]:\\|\b\d{1,3}(?:\.\d{1,3}){3}\b")


def contribution_problems(path: Path) -> list[str]:
    """What keeps a report out, in words; nothing when it may stand there."""
    problems = [] if _NAME.fullmatch(path.name) else ["its name is not of small letters, digits and dashes, with .json"]
    if path.stat().st_size > MOST_BYTES:
        return [*problems, f"it is larger than {MOST_BYTES / 1e6:g} MB"]
    text = path.read_text(encoding="utf-8", errors="replace")
    if _PRIVATE.search(text):
        problems.append("it names a folder or an address of its author")
    try:
        report = read_contract(path, BenchReport, REPORT_FORMAT, REPORT_VERSION)
    except S2PError as error:
        return [*problems, str(error)]
    return problems + _unfair(report) + _pretending(path, report)


def _unfair(report: BenchReport) -> list[str]:
    validity = report.validity
    unfair = {
        "it drew another picture than the golden one": not validity.fidelity_ok,
        "it was measured for too short a time": not validity.minimum_duration_met or report.protocol.minimum_seconds < 60,
        "it was measured on a charger": validity.unplugged is False and report.harness in ("ios", "android"),
        "it was measured in a low-power mode": validity.low_power_mode_off is False,
        "the device was not cool at the start": validity.thermal_nominal_at_start is False,
        "the app was left or the screen locked": validity.foreground is False or validity.unlocked is False,
        "it names no device": report.device.model.strip().lower() in ("", "unknown", "unknown device"),
    }
    return [problem for problem, holds in unfair.items() if holds]


def _pretending(path: Path, report: BenchReport) -> list[str]:
    if path.name.startswith(EXAMPLE) == report.harness_version.startswith(EXAMPLE):
        return []
    return [f"a file that begins with {EXAMPLE}, and no other, has {EXAMPLE} as its harness' version"]
