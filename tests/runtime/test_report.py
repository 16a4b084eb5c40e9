"""Reports: those of version 1 stay readable, and nothing else that lacks a field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2p_runtime.contract import read_contract, write_contract
from s2p_runtime.errors import S2PError
from s2p_runtime.report import REPORT_FORMAT, REPORT_VERSION, BenchReport

FIXTURES = Path(__file__).parents[1] / "fixtures"


def read(path: Path) -> BenchReport:
    return read_contract(path, BenchReport, REPORT_FORMAT, REPORT_VERSION)


def test_a_report_of_version_1_says_the_same_without_units_and_placement() -> None:
    written = json.loads((FIXTURES / "report-1.json").read_text())
    assert written["version"] == 1 and not {"compute_units", "placement"} & set(written)
    old, new = read(FIXTURES / "report-1.json"), read(FIXTURES / "report.json")
    assert (old.version, old.compute_units, old.placement) == (2, {}, ())
    assert new.compute_units and new.placement
    assert old == new.model_copy(update={"compute_units": {}, "placement": ()})


def test_version_1_is_as_strict_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    written = json.loads((FIXTURES / "report-1.json").read_text())
    for change in ({"device": 1}, {"created": None}, {"novelty": 1}, {"validity": {**written["validity"], "unplugged": 1}}):
        path.write_text(json.dumps({**written, **change}))
        with pytest.raises(S2PError, match=rf"is invalid \({next(iter(change))}"):
            read(path)
    path.write_text(json.dumps({**written, "placement": []}))
    with pytest.raises(S2PError, match=r"is invalid \(placement: unknown in version 1\); get it from its author again"):
        read(path)


def test_what_came_later_is_absent_where_there_is_nothing_to_tell(tmp_path: Path) -> None:
    """Readers from before it take such a report."""
    path = tmp_path / "report.json"
    written = json.loads((FIXTURES / "report.json").read_text())
    later = {"load_phases": {"unet": {"first": 3.0, "cached": 1.0}}}
    assert "events" not in written and "foreground" not in written["validity"]
    told = {
        **written,
        "timings_ms": {**written["timings_ms"], **later},
        "memory": {**written["memory"], "own_launch": False},
        "validity": {**written["validity"], "foreground": False, "unlocked": True, "not_throttled": False},
        "events": [{"seconds": 2.5, "kind": "thermal", "state": "serious"}],
    }
    path.write_text(json.dumps(told))
    report = read(path)
    assert report.timings_ms.load_phases == later["load_phases"] and report.validity.foreground is False
    write_contract(path, report)
    assert json.loads(path.read_text()) == told
    told["events"][0]["kind"] = "rain"
    path.write_text(json.dumps(told))
    with pytest.raises(S2PError, match=r"is invalid \(events.0.kind"):
        read(path)
