"""What a terminal shows of programs on an accelerator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from s2p_mobile.cli.console import size
from s2p_runtime.residency import Finding, ProgramResidency, Residency

_NAMED = 8
"""Operators of a rule that are named one by one."""
_WHERE = {"start": "before the first part", "inside": "between parts", "end": "after the last part"}


def residency_line(residency: Residency) -> str:
    """All programs in one line."""
    return f"expected on the {residency.accelerator}: " + ", ".join(map(_short, residency.programs))


def _short(program: ProgramResidency) -> str:
    if not program.segments:
        return f"{program.title} not at all"
    open_ones = len(program.cuts(certain=False, position="inside")) + len(program.unknown)
    words = f"{program.title} in {_count(len(program.segments), 'part')}"
    return f"{words} ({_count(open_ones, 'operator')} undecided)" if open_ones else words


def residency_lines(residency: Residency) -> Iterator[str]:
    """Every program, and the rules that speak of it."""
    yield f"Expected on the {residency.accelerator}, by published rules; nothing here was measured."
    for program in residency.programs:
        yield ""
        yield from _program_lines(program, residency.accelerator)
    yield ""
    yield "rules:"
    spoken = {each.rule for program in residency.programs for each in program.findings}
    for rule in residency.rules:
        if rule.id in spoken:
            yield f"  {rule.id} ({rule.effect}): {rule.says}"
            yield f"    {rule.source}"


def _program_lines(program: ProgramResidency, accelerator: str) -> Iterator[str]:
    stay = sum(each.stays is True for each in program.placements)
    yield (
        f"{program.title}: {_count(len(program.placements), 'operator')}, {stay} stay, "
        f"{_count(len(program.segments), 'part')} on the {accelerator}"
        + (
            f", {program.segments_at_most} if all undecided ones leave"
            if program.segments_at_most > len(program.segments)
            else ""
        )
    )
    for number, part in enumerate(program.segments, start=1):
        if number <= _NAMED:
            yield f"  part {number}: {_count(part.operators, 'operator')}, {part.first} to {part.last}"
    if len(program.segments) > _NAMED:
        yield f"  and {len(program.segments) - _NAMED} more parts"
    yield from _cut_lines("leaves", program, certain=True)
    yield from _cut_lines("may leave", program, certain=False)
    inside = [each for each in program.cuts() if each.between_convolutions]
    sure = sum(each.certain for each in inside)
    yield f"  between the first and last convolution: {_count(sure, 'cut')}, {len(inside) - sure} more possible"
    unknown = Counter(each.type for each in program.unknown)
    yield f"  no rule knows: {', '.join(f'{count} {name}' for name, count in unknown.items()) or 'none'}"
    if program.activation_bytes:
        ratio = program.padded_bytes / program.activation_bytes
        yield f"  values: {size(program.activation_bytes)}, padded {size(program.padded_bytes)} ({ratio:.2f} times)"
    copies = [each for each in program.findings if each.effect == "copy"]
    yield f"  copies: {_count(len(copies), 'operator')}, {size(program.copied_bytes)} read and written"
    yield f"  outside: {size(program.transfer_bytes)} read and written; weights {size(program.weight_bytes)}"
    for rule, found in _by_rule(each for each in program.findings if each.effect in ("note", "padding")):
        extra = sum(each.bytes for each in found)
        yield f"  {found[0].effect} {rule}: {_count(len(found), 'operator')}" + (f", {size(extra)} more" if extra else "")


def _cut_lines(verb: str, program: ProgramResidency, *, certain: bool) -> Iterator[str]:
    for rule, found in _by_rule(program.cuts(certain=certain)):
        places = Counter(each.position for each in found)
        where = ", ".join(f"{count} {_WHERE[place]}" for place, count in places.items() if place is not None)
        yield f"  {verb}, {rule}: {_count(len(found), 'operator')}" + (f" ({where})" if program.segments else "")
        for each in found[:_NAMED]:
            yield f"    {each.type} {each.operator}: {each.words}, {size(each.bytes)}"
        if len(found) > _NAMED:
            yield f"    and {len(found) - _NAMED} more"


def _by_rule(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    groups: dict[str, list[Finding]] = {}
    for each in findings:
        groups.setdefault(each.rule, []).append(each)
    yield from groups.items()


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
