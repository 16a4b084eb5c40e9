"""Placement on a device against a target's rules: counted by hand on small programs, and from end to end with the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2p_converters.targets.registry import TARGETS
from s2p_mobile.cli.app import run
from s2p_mobile.judge.reports import compare_placement
from s2p_mobile.judge.reports.placement import work_on_engine
from s2p_mobile.judge.reports.table import engine_work
from s2p_runtime.bundle import Bundle
from s2p_runtime.errors import S2PError
from s2p_runtime.report import BenchReport
from s2p_runtime.residency import OperatorPlacement, ProgramResidency, Residency

FIXTURES = Path(__file__).parents[2] / "fixtures"
PLACES = {"e": "neural-engine", "g": "gpu", "c": "cpu", "-": None}
STAYS = {"e": True, "x": False, "?": None}


def measured(
    places: str, unit: str = "neural-engine", program: str = "unet", able: str = "", function: str = "main"
) -> BenchReport:
    """A report of one program whose operators o0, o1, ... run where the letters say; those of ``able`` could run on the engine."""
    report = BenchReport.model_validate_json((FIXTURES / "report.json").read_text())
    operators = [
        {
            "program": program, "function": function, "type": "add", "output": f"o{index}", "preferred": PLACES[letter],
            "supported": ["neural-engine", "cpu"] if letter == "e" or str(index) in able else ["cpu"], "cost": None,
        }
        for index, letter in enumerate(places)
    ]  # fmt: skip
    document = {**report.model_dump(mode="json"), "placement": operators, "compute_units": {program: unit}}
    return BenchReport.model_validate_json(json.dumps(document))


def rules(stays: str, **named: str) -> dict[str, list[OperatorPlacement]]:
    """Of operators o0, o1, ...; ``named`` names rules by letter of operators off the engine."""
    names = [f"o{index}" for index in range(len(stays))]
    return {
        "unet": [
            OperatorPlacement(name=name, type="add", stays=STAYS[letter], rule=named.get(name))
            for name, letter in zip(names, stays, strict=True)
        ]
    }


def residency(placements: dict[str, list[OperatorPlacement]]) -> Residency:
    """As a target gives it, with nothing but the placements."""
    counts = dict.fromkeys(("activation_bytes", "padded_bytes", "copied_bytes", "transfer_bytes", "weight_bytes"), 0)
    programs = tuple(
        ProgramResidency(
            program=name, function="main", placements=tuple(operators), segments=(), segments_at_most=0, findings=(), **counts
        )
        for name, operators in placements.items()
    )
    return Residency(accelerator="Apple Neural Engine", programs=programs, rules=())


def test_work_is_weighed_by_cost() -> None:
    """Nine small operators on the CPU are not nine tenths of the work; of a U-Net in two programs each counts alike."""
    report = measured("ecccccccc")
    costs = [0.92, *[0.01] * 8]
    weighed = [one.model_copy(update={"cost": cost}) for one, cost in zip(report.placement, costs, strict=True)]
    whole = report.model_copy(update={"placement": tuple(weighed)})
    assert work_on_engine(whole) == pytest.approx(0.92) and engine_work(whole) == "92 %"
    second = [one.model_copy(update={"program": "unet_2", "preferred": "neural-engine"}) for one in weighed]
    assert work_on_engine(report.model_copy(update={"placement": (*weighed, *second)})) == pytest.approx(0.96)
    assert work_on_engine(report) is None and engine_work(report) is None
    assert work_on_engine(report.model_copy(update={"placement": (*weighed, report.placement[0])})) is None


def test_a_program_that_runs_as_expected_has_no_differences() -> None:
    found = compare_placement(measured("eegee"), rules("eexee", o2="gather"))
    assert found.lines == (
        "placement of unet: 4 of 5 operators on the Neural Engine, 5 of 5 where the rules expect them",
        "  leaves the engine once, once expected",
    )
    assert found.figures[0]["differences"] == [] and found.figures[0]["cuts"] == []


def test_differences_are_listed_by_rule() -> None:
    # o0, o4 and o6 were to leave it by one rule, o1 by another; o3 and o8 were to stay.
    expected = rules("xxeexexee", o0="gather-inside", o1="float32", o4="gather-inside", o6="gather-inside", o8="conv")
    found = compare_placement(measured("eeegegecc", able="3"), expected)
    assert found.lines[2:] == (
        "  rule gather-inside: expected off the engine, ran on it: 3 operators: o0, o4, o6",
        "  rule float32: expected off the engine, ran on it: 1 operator: o1",
        "  expected on the engine, ran off it though it could take them: 1 operator: o3 (gpu)",
        "  expected on the engine, ran off it because it cannot take them: 2 operators: o5 (gpu), o7 (cpu)",
        "  rule conv: expected on the engine, ran off it because it cannot take them: 1 operator: o8 (cpu)",
        "  cut the program against the expectation: 3 operators: o3 (gpu), o5 (gpu), o7 (cpu)",
    )
    assert found.lines[0].endswith("5 of 9 operators on the Neural Engine, 1 of 9 where the rules expect them")
    (program,) = found.figures
    keys = ("rule", "expected_on_engine", "engine_can")
    assert [(*(one[key] for key in keys), len(one["operators"])) for one in program["differences"]] == [
        ("gather-inside", False, True, 3),
        ("float32", False, True, 1),
        (None, True, True, 1),
        (None, True, False, 2),
        ("conv", True, False, 1),
    ]


@pytest.mark.parametrize(
    ("places", "stays", "away", "expected", "cuts"),
    [
        ("eeee", "eeee", 0, 0, []),
        ("geeg", "xeex", 2, 2, []),
        # A stretch in which one operator was expected off is no new cut, however long it is.
        ("eggge", "eexee", 1, 1, []),
        ("eggge", "eeeee", 1, 0, ["o1"]),
        ("gegeg", "eeeee", 3, 0, ["o0", "o2", "o4"]),
        # Nobody said that it stays.
        ("ege", "e?e", 1, 0, []),
        ("eegge", "ee?ee", 1, 0, ["o3"]),
        ("eeeee", "exexe", 0, 2, []),
    ],
)
def test_cuts_are_stretches_off_the_engine(places: str, stays: str, away: int, expected: int, cuts: list[str]) -> None:
    (program,) = compare_placement(measured(places), rules(stays)).figures
    assert (program["away"], program["away_expected"], program["cuts"]) == (away, expected, cuts)


def test_what_cannot_be_compared_is_counted() -> None:
    expected = rules("e?xee")
    expected["unet"][4] = OperatorPlacement(name="renamed", type="add", stays=True, rule=None)
    found = compare_placement(measured("egge-e"), expected)
    (program,) = found.figures
    # o4 has no place, o5 no rule; "renamed" has no operator.
    assert (program["operators"], program["on_engine"], program["compared"]) == (5, 3, 3)
    assert (program["undecided"], program["only_report"], program["only_bundle"]) == (["o1"], 1, 1)
    assert found.lines[-2:] == (
        "  no rule decides, 0 ran on the engine: 1 operator: o1 (gpu)",
        "  not compared: 1 of the report alone, 1 of the bundle alone",
    )


@pytest.mark.parametrize(("unit", "compared"), [("neural-engine", True), ("all", True), ("gpu", False), ("cpu", False)])
def test_only_programs_that_may_use_the_engine_are_compared(unit: str, compared: bool) -> None:
    found = compare_placement(measured("gg", unit), rules("ee"))
    assert (found.figures[0]["differences"] != []) == compared
    assert compared or found.lines == (f"placement of unet: loaded for {unit}, not compared",)


def test_functions_of_a_program_have_rules_of_their_own() -> None:
    expected = {"unet": rules("ee")["unet"], "unet.size_64x48": rules("xx")["unet"]}
    (first,) = compare_placement(measured("ee"), expected).figures
    (second,) = compare_placement(measured("ee", function="size_64x48"), expected).figures
    assert (first["program"], len(first["differences"])) == ("unet", 0)
    assert (second["program"], len(second["differences"])) == ("unet.size_64x48", 1)
    assert compare_placement(measured("ee", function="size_32x32"), expected).figures == ()


def test_long_lists_are_cut_and_programs_without_rules_left_out() -> None:
    (_, _, line, *_) = compare_placement(measured("g" * 11), rules("e" * 11)).lines
    assert line.endswith("11 operators: " + ", ".join(f"o{k} (gpu)" for k in range(8)) + " and 3 more")
    assert compare_placement(measured("g", program="vae_decoder"), rules("e")).lines == ()


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(FIXTURES / "report.json", tmp_path / "phone.json")
    return tmp_path


@pytest.fixture
def expect(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """``expect(rules)``: what the target of the fixture says; an error is raised."""
    target = TARGETS.get("coreml")

    def answer(result: Any) -> None:
        def expected(bundle: Bundle) -> Any:
            assert bundle.manifest.name == "replay"
            if isinstance(result, Exception):
                raise result
            return None if result is None else residency(result)

        monkeypatch.setattr(target, "residency", expected)

    return answer


BUNDLE = ["--bundle", str(FIXTURES / "replay.s2pmobile"), "--json", "figures.json", "--force"]
RULES = {
    "unet": [
        OperatorPlacement(name="conv_in", type="conv", stays=True, rule=None),
        OperatorPlacement(name="row", type="gather", stays=True, rule="gather-inside"),
        OperatorPlacement(name="noise_pred", type="linear", stays=False, rule="row-axis"),
    ],
    "text_encoder": [OperatorPlacement(name="last_hidden_state", type="linear", stays=True, rule=None)],
}


def test_the_command_compares_the_report_with_the_bundle(
    phone: Path, expect: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    expect(RULES)
    assert run(["report", "phone.json", *BUNDLE]) == 0
    out = capfd.readouterr().out
    for line in (
        "placement of unet: 2 of 3 operators on the Neural Engine, 1 of 3 where the rules expect them",
        "rule gather-inside: expected on the engine, ran off it because it cannot take them: 1 operator: row (gpu)",
        "rule row-axis: expected off the engine, ran on it: 1 operator: noise_pred",
        "placement of text_encoder: loaded for cpu, not compared",
    ):
        assert line in out and line in (phone / "report.html").read_text(), line
    (told,) = json.loads((phone / "figures.json").read_text())["reports"]
    assert [one["rule"] for one in told["placement"][0]["differences"]] == ["gather-inside", "row-axis"]
    assert run(["report", "phone.json", "--json", "figures.json", "--force"]) == 0
    assert json.loads((phone / "figures.json").read_text())["reports"][0]["placement"] is None, "nobody asked"


def test_a_target_without_rules_says_nothing(
    phone: Path, expect: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    expect(None)
    assert run(["report", "phone.json", *BUNDLE]) == 0
    assert "placement of" not in capfd.readouterr().out
    assert json.loads((phone / "figures.json").read_text())["reports"][0]["placement"] is None


def test_a_bundle_that_cannot_be_judged_still_gives_its_pictures(
    phone: Path, expect: Callable[[Any], None], capfd: pytest.CaptureFixture[str]
) -> None:
    expect(S2PError("unet.mlpackage is unreadable", "convert again"))
    assert run(["report", "phone.json", *BUNDLE]) == 0
    assert "not compared with the rules: unet.mlpackage is unreadable; convert again" in capfd.readouterr().out
    assert "floating point" in (phone / "report.html").read_text()


def test_reports_of_version_1_are_not_compared(phone: Path, expect: Callable[[Any], None]) -> None:
    expect(RULES)
    shutil.copyfile(FIXTURES / "report-1.json", phone / "phone.json")
    assert run(["report", "phone.json", *BUNDLE]) == 0
    assert json.loads((phone / "figures.json").read_text())["reports"][0]["placement"] is None
