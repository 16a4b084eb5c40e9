"""Reports of many devices: one page by chip and bundle, and what a contributed report must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2p_mobile.cli.app import run
from s2p_mobile.judge.reports import chip_name, contribution_problems, fleet_rows, read_folder
from s2p_runtime.report import BenchReport

REPOSITORY = Path(__file__).parents[3]
FIXTURE = json.loads((REPOSITORY / "tests" / "fixtures" / "report.json").read_text())
CONTRIBUTED = REPOSITORY / "docs" / "results-devices"


def report(model: str = "iPhone16,1", soc: str | None = None, picture: float = 110.25, **changes: Any) -> dict[str, Any]:
    summary = {**FIXTURE["summary_ms"], "image": {**FIXTURE["summary_ms"]["image"], "p50": picture}}
    return {**FIXTURE, "device": {**FIXTURE["device"], "model": model, "soc": soc}, "summary_ms": summary, **changes}


def test_chips_have_names() -> None:
    def named(model: str, soc: str | None) -> str:
        return chip_name(BenchReport.model_validate_json(json.dumps(report(model, soc))))

    assert named("iPhone16,1", None) == "A17 Pro"
    assert named("samsung SM-S928B", "SM8650") == "Snapdragon 8 Gen 3"
    assert named("Raspberry Pi 5 Model B", "brcm,bcm2712") == "Broadcom BCM2712"
    assert named("somebody's phone", "XYZ1") == "XYZ1" and named("unheard of", None) == "of unheard of"


def test_every_table_of_chips_names_its_source() -> None:
    tables = yaml.safe_load((REPOSITORY / "sdk/s2p_mobile/judge/reports/chips.yaml").read_text())
    assert all(maker["source"].startswith("https://") and maker["chips"] for maker in tables.values())
    names = [name.lower() for maker in tables.values() for name in maker["chips"]]
    assert len(names) == len(set(names))


def test_one_page_by_chip_and_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "reports"
    (folder / "more").mkdir(parents=True)
    other = {"bundle_name": "another", "bundle_sha256": "0" * 64}
    written = {
        "slow.json": report("iPhone16,1", picture=200.0),
        "fast.json": report("iPhone16,2", picture=100.0),
        "old.json": report("iPhone13,2", picture=400.0),
        "more/else.json": report("a <b>phone</b>", "SM8650", **other),
    }
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    rows = fleet_rows(read_folder(folder))
    assert [(row.bundle.split(" ")[0], row.cells[0], row.cells[6]) for row in rows] == [
        ("another", "Snapdragon 8 Gen 3", "110"),
        ("replay", "A14 Bionic", "400"),
        ("replay", "A17 Pro", "100"),
        ("replay", "A17 Pro", "200"),
    ]
    out = tmp_path / "page.html"
    assert run(["report", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("<h2>") == 2 and page.count("A17 Pro") == 1, "a chip's name stands once above its devices"
    assert "&lt;b&gt;phone&lt;/b&gt;" in page and "<b>" not in page
    assert "src=" not in page and "href=" not in page
    assert "Snapdragon" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EMPTY"], "holds no reports; give a folder with report files"),
        (["FOLDER", "FOLDER"], "a folder of reports stands alone"),
        (["FOLDER", "--label", "a"], "a folder of reports stands alone"),
        (["WRONG"], "is not of format 's2p-report'"),
    ],
)
def test_folders_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    for name in ("EMPTY", "FOLDER", "WRONG"):
        (tmp_path / name).mkdir()
    (tmp_path / "FOLDER" / "a.json").write_text(json.dumps(report()))
    (tmp_path / "WRONG" / "a.json").write_text("{}")
    given = [word if word.startswith("-") or len(word) == 1 else str(tmp_path / word) for word in words]
    assert run(["report", *given, "--out", str(tmp_path / "page.html")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "page.html").exists()


def test_contributed_reports_may_stand_there() -> None:
    found = sorted(CONTRIBUTED.glob("*.json"))
    assert {path.name: contribution_problems(path) for path in found if contribution_problems(path)} == {}
    assert [path.name for path in found if path.name.startswith("example")] == ["example.json"]
    assert sorted(path.name for path in CONTRIBUTED.iterdir() if path.suffix != ".json") == ["README.md"]


FAIR = {**FIXTURE["validity"], "thermal_nominal_at_start": True}
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "name": ("My Phone.json", {}, "its name is not of small letters"),
    "picture": ("a.json", {"validity": {**FAIR, "fidelity_ok": False}}, "another picture"),
    "charger": ("a.json", {"validity": {**FAIR, "unplugged": False}}, "on a charger"),
    "short": ("a.json", {"validity": {**FAIR, "minimum_duration_met": False}}, "too short"),
    "shortened": ("a.json", {"protocol": {**FIXTURE["protocol"], "minimum_seconds": 1.0}}, "too short"),
    "left": ("a.json", {"validity": {**FAIR, "foreground": False}}, "the app was left"),
    "hot": ("a.json", {"validity": {**FAIR, "thermal_nominal_at_start": False}}, "not cool"),
    "folder": ("a.json", {"missing": {"device.soc": "cannot read /home/somebody/x"}}, "names a folder or an address"),
    "address": ("a.json", {"missing": {"device.soc": "asked 192.0.2.7"}}, "names a folder or an address"),
    "no report": ("a.json", {"format": "other"}, "is not of format"),
    "example": ("a.json", {"harness_version": "example"}, "a file that begins with example"),
    "nobody": ("a.json", {"device": {**FIXTURE["device"], "model": "unknown"}}, "names no device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_contributions_that_are_refused(tmp_path: Path, name: str) -> None:
    file, changes, problem = WRONG[name]
    right = {**FIXTURE, "validity": FAIR}
    (tmp_path / "right.json").write_text(json.dumps(right))
    assert contribution_problems(tmp_path / "right.json") == []
    (tmp_path / file).write_text(json.dumps({**right, **changes}))
    assert any(problem in one for one in contribution_problems(tmp_path / file))
