"""A bundle's programs, held against the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from s2p_converters.targets.coreml.residency.flow import Flow
from s2p_converters.targets.coreml.residency.hits import Hit, hit
from s2p_converters.targets.coreml.residency.table import LastAxis, ProgramBytesAbove, RuleEntry, RuleTable, rule_table
from s2p_converters.targets.coreml.residency.typed import TypedOperator, typed_operators, value_bytes
from s2p_runtime.bundle import Bundle
from s2p_runtime.hosts.coreml.mil import Function
from s2p_runtime.hosts.coreml.mil.package import read_package
from s2p_runtime.residency import Finding, OperatorPlacement, ProgramResidency, Residency, Segment


def check_bundle(bundle: Bundle, table: RuleTable | None = None) -> Residency:
    """Every operator of every program of a bundle against the rules.

    Args:
        table: the one that comes with the package when None.

    Raises:
        S2PError: a program is damaged.
    """
    rules = table or rule_table()
    programs = []
    for name in bundle.manifest.components:
        functions = read_package(bundle.component(name)[1])
        programs += [check_function(name, function, rules) for function in functions.values()]
    named = {each.rule for program in programs for each in program.findings}
    named |= {each.rule for program in programs for each in program.placements if each.rule is not None}
    return Residency(
        accelerator=rules.accelerator, programs=tuple(programs), rules=tuple(rules.rule(identity) for identity in sorted(named))
    )


def expected_placement(bundle: Bundle) -> Mapping[str, Sequence[OperatorPlacement]]:
    """Where each operator is expected to run: program -> its operators in order, by the name of their first output.

    The key is the component (``unet``), or ``unet.FUNCTION`` of a program with several functions. ``stays`` is None where the rules
    do not decide: with a rule, its sources leave it open; without one, the operator is unknown.

    Raises:
        S2PError: a program is damaged.
    """
    return check_bundle(bundle).placements


def check_function(program: str, function: Function, table: RuleTable) -> ProgramResidency:
    """One function of a program against the rules.

    Args:
        program: what it is called.
    """
    operators = list(typed_operators(function))
    flow = Flow(operators)
    verdicts = [_verdict(each, table) for each in operators]
    off = {each.place for each, verdict in zip(operators, verdicts, strict=True) if verdict.stays is False}
    undecided = {each.place for each, verdict in zip(operators, verdicts, strict=True) if verdict.stays is None}
    positions = flow.positions(off)
    findings: list[Finding] = []
    for each, verdict in zip(operators, verdicts, strict=True):
        if verdict.cut is not None:
            position = positions[each.place]
            findings.append(
                Finding(
                    operator=each.name,
                    type=each.kind,
                    rule=verdict.rule or "",
                    effect="cut",
                    certain=verdict.stays is False,
                    position=position,
                    between_convolutions=flow.between_convolutions(each.place, position),
                    bytes=_moved(each),
                    words=verdict.cut.words,
                )
            )
        if verdict.stays is not False:
            findings += _costs(each, table)
    staying = [each for each in operators if each.place not in off]
    weights = sum(weight.stored_bytes for weight in function.constants.values())
    findings += _of_program(program, weights, table)
    block = next((rule.test.block_bytes for rule in table.rules if isinstance(rule.test, LastAxis)), 1)
    return ProgramResidency(
        program=program,
        function=function.name,
        placements=tuple(
            OperatorPlacement(name=each.name, type=each.kind, stays=verdict.stays, rule=verdict.rule)
            for each, verdict in zip(operators, verdicts, strict=True)
        ),
        segments=tuple(
            Segment(operators=len(part), first=operators[part[0]].name, last=operators[part[-1]].name)
            for part in flow.segments(off)
        ),
        segments_at_most=len(flow.segments(off | undecided)),
        findings=tuple(findings),
        activation_bytes=sum(value_bytes(value.type) for each in staying for value in each.outputs),
        padded_bytes=sum(value_bytes(value.type, block) for each in staying for value in each.outputs),
        copied_bytes=sum(each.bytes for each in findings if each.effect == "copy"),
        transfer_bytes=sum(_moved(each) for each in operators if each.place in off),
        weight_bytes=weights,
    )


@dataclass(frozen=True)
class _Verdict:
    """Where an operator is expected, by which rule, and what speaks against the engine."""

    stays: bool | None
    rule: str | None
    cut: Hit | None


def _verdict(operator: TypedOperator, table: RuleTable) -> _Verdict:
    """The first rule that surely cuts, else one that may, else what is known of operators of this type."""
    known = table.operators.get(operator.kind)
    own = f"operator:{operator.kind}"
    against: list[tuple[bool, str, Hit]] = []
    for rule in table.rules:
        if rule.effect == "cut" and (found := _hit(rule, operator)) is not None:
            against.append((rule.certain, rule.id, found))
    if known is not None and not known.stays:
        against.append((known.stays is False, own, Hit(f"{operator.outputs[0].type}")))
    for certain, rule_id, found in sorted(against, key=lambda each: not each[0]):
        return _Verdict(False if certain else None, rule_id, found)
    return _Verdict(None, None, None) if known is None else _Verdict(True, own, None)


def _hit(rule: RuleEntry, operator: TypedOperator) -> Hit | None:
    return None if isinstance(rule.test, ProgramBytesAbove) else hit(rule.test, operator)


def _costs(operator: TypedOperator, table: RuleTable) -> Iterator[Finding]:
    """What an operator costs on the engine."""
    for rule in table.rules:
        if rule.effect != "cut" and (found := _hit(rule, operator)) is not None:
            yield Finding(
                operator=operator.name,
                type=operator.kind,
                rule=rule.id,
                effect=rule.effect,
                certain=rule.certain,
                position=None,
                between_convolutions=False,
                bytes=found.bytes,
                words=found.words,
            )


def _of_program(program: str, weights: int, table: RuleTable) -> Iterator[Finding]:
    for rule in table.rules:
        if isinstance(rule.test, ProgramBytesAbove) and weights >= rule.test.limit:
            yield Finding(
                operator=program,
                type="program",
                rule=rule.id,
                effect=rule.effect,
                certain=rule.certain,
                position=None,
                between_convolutions=False,
                bytes=0,
                words=f"{weights} bytes of weights",
            )


def _moved(operator: TypedOperator) -> int:
    """Bytes that an operator outside of the engine reads and writes."""
    return sum(value_bytes(value.type) for value in operator.values)
