"""Where a device means to run the operators of a bundle, held against where its target's rules expect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from s2p_mobile.judge.reports.entries import PlacementComparison, printable
from s2p_runtime.report import BenchReport, PlacedOperator
from s2p_runtime.residency import OperatorPlacement

ENGINE = "neural-engine"
_OFFERS_ENGINE = (ENGINE, "all")
"""What a program has to be loaded for to run on it."""
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Difference:
    """Operators of a program that run elsewhere than one rule expects.

    Attributes:
        rule: None: no rule is named.
        expected: whether they were expected on the engine.
        possible: whether the engine could take them, as the device says.
    """

    rule: str | None
    expected: bool
    possible: bool
    operators: tuple[PlacedOperator, ...]

    def line(self) -> str:
        """In one line."""
        name = "" if self.rule is None else f"rule {printable(self.rule)}: "
        where = "off the engine, ran on it"
        if self.expected:
            where = (
                f"on the engine, ran off it {'though it could take them' if self.possible else 'because it cannot take them'}"
            )
        return f"{name}expected {where}: {_listed(self.operators)}"


@dataclass(frozen=True)
class ProgramPlacement:
    """The comparison of one program, or of one function of a program with several.

    Attributes:
        unit: that it was loaded for, None where the report does not tell.
        operators: of the report, with a place.
        on_engine: of these.
        compared: operators that both know and a rule decides.
        undecided: operators that both know and no rule decides.
        only_report: operators that the rules do not know.
        only_bundle: operators that the report does not know.
        away: how often the program leaves the engine.
        away_expected: how often it would as the rules have it.
        cuts: of each stretch off the engine in which none is expected, the first operator that was expected on it.
    """

    program: str
    unit: str | None
    operators: int
    on_engine: int
    compared: int
    undecided: tuple[PlacedOperator, ...]
    only_report: int
    only_bundle: int
    away: int
    away_expected: int
    differences: tuple[Difference, ...]
    cuts: tuple[PlacedOperator, ...]

    def lines(self) -> list[str]:
        """For people."""
        title = f"placement of {printable(self.program)}"
        if self.unit is not None and self.unit not in _OFFERS_ENGINE:
            return [f"{title}: loaded for {self.unit}, not compared"]
        as_expected = self.compared - sum(len(one.operators) for one in self.differences)
        lines = [
            f"{title}: {self.on_engine} of {_counted(self.operators)} on the Neural Engine, "
            f"{as_expected} of {self.compared} where the rules expect them",
            f"leaves the engine {_times(self.away)}, {_times(self.away_expected)} expected",
            *(difference.line() for difference in self.differences),
        ]
        if self.cuts:
            lines.append(f"cut the program against the expectation: {_listed(self.cuts)}")
        if self.undecided:
            taken = sum(one.preferred == ENGINE for one in self.undecided)
            lines.append(f"no rule decides, {taken} ran on the engine: {_listed(self.undecided)}")
        if self.only_report or self.only_bundle:
            lines.append(f"not compared: {self.only_report} of the report alone, {self.only_bundle} of the bundle alone")
        return [lines[0], *(f"  {line}" for line in lines[1:])]


def share_on_engine(report: BenchReport) -> tuple[int, int]:
    """(operators on the Neural Engine, operators of which the report tells a place)."""
    places = [one.preferred for one in report.placement if one.preferred is not None]
    return sum(place == ENGINE for place in places), len(places)


def work_on_engine(report: BenchReport) -> float | None:
    """Share of the U-Net's work that is to run on the Neural Engine, by the engine's own estimate of each operator's cost, 0 to 1.

    Costs are shares of a program's work, so those of different components do not add up; the programs of one U-Net count alike. None
    where an operator has no estimate: there is no whole to take a share of.
    """
    shares = []
    for _, group in groupby((one for one in report.placement if one.program.startswith("unet")), key=lambda one: one.program):
        operators = [one for one in group if one.preferred is not None]
        costs = [one.cost for one in operators if one.cost is not None]
        if not costs or len(costs) < len(operators) or not sum(costs):
            return None
        taken = sum(one.cost or 0.0 for one in operators if one.preferred == ENGINE)
        shares.append(taken / sum(costs))
    return sum(shares) / len(shares) if shares else None


def compare_placement(report: BenchReport, expected: Mapping[str, Sequence[OperatorPlacement]]) -> PlacementComparison:
    """The programs that both know, in the order of the report.

    Args:
        expected: as :attr:`s2p_runtime.residency.Residency.placements` has it, by program, or by ``program.function`` where a program
            has several.
    """
    found = []
    for (name, function), group in groupby(report.placement, key=lambda one: (one.program, one.function)):
        title = name if function == "main" else f"{name}.{function}"
        if title in expected:
            found.append(_compare_program(title, report.compute_units.get(name), list(group), expected[title]))
    lines = [line for program in found for line in program.lines()]
    return PlacementComparison(tuple(lines), tuple(_figures(program) for program in found))


def _compare_program(
    name: str, unit: str | None, placed: Sequence[PlacedOperator], rules: Sequence[OperatorPlacement]
) -> ProgramPlacement:
    told = [one for one in placed if one.preferred is not None]
    known = {rule.name: rule for rule in rules} if unit is None or unit in _OFFERS_ENGINE else {}
    pairs = [(one, None if one.output is None else known.get(one.output)) for one in told]
    decided = [(one, rule) for one, rule in pairs if rule is not None and rule.stays is not None]
    wrong: dict[tuple[str | None, bool, bool], list[PlacedOperator]] = {}
    for one, rule in decided:
        if rule.stays != (one.preferred == ENGINE):
            key = (rule.rule, bool(rule.stays), ENGINE in one.supported)
            wrong.setdefault(key, []).append(one)
    off = [list(stretch) for left, stretch in groupby(pairs, key=lambda pair: pair[0].preferred != ENGINE) if left]
    cuts = []
    for stretch in off:
        stayed = [one for one, rule in stretch if rule is not None and rule.stays]
        if stayed and not any(rule is not None and rule.stays is False for _, rule in stretch):
            cuts.append(stayed[0])
    outputs = {one.output for one in placed}
    return ProgramPlacement(
        program=name,
        unit=unit,
        operators=len(told),
        on_engine=sum(one.preferred == ENGINE for one in told),
        compared=len(decided),
        undecided=tuple(one for one, rule in pairs if rule is not None and rule.stays is None),
        only_report=sum(rule is None for _, rule in pairs),
        only_bundle=sum(name not in outputs for name in known),
        away=len(off),
        away_expected=sum(not stays for stays, _ in groupby(rule.stays for _, rule in decided)),
        differences=tuple(Difference(*key, tuple(operators)) for key, operators in wrong.items()),
        cuts=tuple(cuts),
    )


def _counted(count: int) -> str:
    return f"{count} operator{'' if count == 1 else 's'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _listed(operators: Sequence[PlacedOperator]) -> str:
    """``3 operators: a, b (gpu), c``; those off the engine with their place."""
    names = []
    for one in operators[:_NAMES_SHOWN]:
        place = "" if one.preferred == ENGINE else f" ({one.preferred})"
        names.append(printable(one.output or one.type) + place)
    more = len(operators) - len(names)
    return f"{_counted(len(operators))}: {', '.join(names)}{f' and {more} more' if more else ''}"


def _figures(program: ProgramPlacement) -> dict[str, Any]:
    """For programs, JSON-able."""
    counts = ("program", "unit", "operators", "on_engine", "compared", "only_report", "only_bundle", "away", "away_expected")
    return {
        **{name: getattr(program, name) for name in counts},
        "undecided": [one.output or one.type for one in program.undecided],
        "cuts": [one.output or one.type for one in program.cuts],
        "differences": [
            {
                "rule": one.rule,
                "expected_on_engine": one.expected,
                "engine_can": one.possible,
                "operators": [
                    {"output": operator.output, "type": operator.type, "ran_on": operator.preferred}
                    for operator in one.operators
                ],
            }
            for one in program.differences
        ],
    }
