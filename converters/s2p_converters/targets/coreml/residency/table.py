"""The rules as they lie in ``rules.json``: data that findings from devices can mend."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from s2p_runtime.contract import first_problem
from s2p_runtime.errors import S2PError
from s2p_runtime.residency import Effect, Rule

TABLE = Path(__file__).parent / "rules.json"
NOT_DOCUMENTED = "not documented"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Entry):
    """A document that says so."""

    title: str
    address: str


class InterfaceCast(_Entry):
    """A cast between an input or output of the program and its inside; ``types`` are those of the outside."""

    kind: Literal["interface-cast"]
    types: frozenset[str]


class DynamicShape(_Entry):
    """A dimension that is unknown before a run."""

    kind: Literal["dynamic-shape"]


class RankAbove(_Entry):
    """More axes than ``limit``."""

    kind: Literal["rank-above"]
    limit: int


class ElementTypes(_Entry):
    """A value that is read or made has one of ``types``.

    ``literals``: constants count too, but for the parameters ``settings``, which the compiler reads and no unit computes with.
    """

    kind: Literal["element-type"]
    types: frozenset[str]
    literals: bool
    settings: frozenset[str]


class NumberAbove(_Entry):
    """A number among the constants that ``operators`` take as ``parameters`` is above ``limit``."""

    kind: Literal["number-above"]
    operators: frozenset[str]
    parameters: frozenset[str]
    limit: float


class AxisNot(_Entry):
    """``operators`` that work over other axes than ``axis`` alone."""

    kind: Literal["axis-not"]
    operators: frozenset[str]
    parameters: frozenset[str]
    axis: int


class BatchedProduct(_Entry):
    """Products of matrices whose second axis from the left, that of heads, is longer than 1."""

    kind: Literal["batched-product"]
    operators: frozenset[str]


class LastAxis(_Entry):
    """A last axis that is no multiple of ``block_bytes``; ``only_one``: one of length 1, and else every other."""

    kind: Literal["last-axis"]
    block_bytes: int
    only_one: bool


class LastAxisPower(_Entry):
    """A last axis of ``block_bytes`` or more that is no power of two."""

    kind: Literal["last-axis-power"]
    block_bytes: int


class MovesLastAxis(_Entry):
    """``operators`` whose result has another last axis than what they read."""

    kind: Literal["moves-last-axis"]
    operators: frozenset[str]


class ValueBytesAbove(_Entry):
    """A result of more than ``limit`` bytes."""

    kind: Literal["value-bytes-above"]
    limit: int


class ProgramBytesAbove(_Entry):
    """A program whose stored weights are ``limit`` bytes or more."""

    kind: Literal["program-bytes-above"]
    limit: int


OperatorTest = (
    InterfaceCast
    | DynamicShape
    | RankAbove
    | ElementTypes
    | NumberAbove
    | AxisNot
    | BatchedProduct
    | LastAxis
    | LastAxisPower
    | MovesLastAxis
    | ValueBytesAbove
)
"""Tests of one operator."""


class RuleEntry(_Entry):
    """One rule. ``certain`` false: its sources say that it may be so, or contradict each other."""

    id: str
    effect: Effect
    certain: bool = True
    says: str
    sources: tuple[str, ...]
    remark: str | None = None
    test: Annotated[OperatorTest | ProgramBytesAbove, Field(discriminator="kind")]


class OperatorEntry(_Entry):
    """What is known of an operator as such. ``stays`` null: its sources leave it open. No sources: an assumption."""

    stays: bool | None
    sources: tuple[str, ...]
    remark: str | None = None


class RuleTable(_Entry):
    """All of it."""

    accelerator: str
    sources: dict[str, Source]
    rules: tuple[RuleEntry, ...] = Field(description="the first cut that an operator meets decides its place")
    operators: dict[str, OperatorEntry]

    @model_validator(mode="after")
    def _sources_exist(self) -> RuleTable:
        cited = [(rule.id, rule.sources) for rule in self.rules]
        cited += [(name, operator.sources) for name, operator in self.operators.items()]
        for name, sources in cited:
            for source in sources:
                if source not in self.sources:
                    raise ValueError(f"{name} names the source {source}, which is not listed")
        if len({rule.id for rule in self.rules}) != len(self.rules):
            raise ValueError("two rules have the same id")
        return self

    def rule(self, identity: str) -> Rule:
        """A rule, or what is known of an operator (``operator:TYPE``), as reports state it."""
        kind, _, operator = identity.partition(":")
        if kind == "operator" and operator in self.operators:
            known = self.operators[operator]
            place = {True: "stays", False: "leaves the engine", None: "may leave the engine"}[known.stays]
            return Rule(
                id=identity,
                effect="note" if known.stays else "cut",
                says=f"{operator} {place}{'' if known.remark is None else f' ({known.remark})'}",
                source=self._cited(known.sources),
            )
        entry = next(rule for rule in self.rules if rule.id == identity)
        says = entry.says if entry.remark is None else f"{entry.says} ({entry.remark})"
        return Rule(id=entry.id, effect=entry.effect, says=says, source=self._cited(entry.sources))

    def _cited(self, names: tuple[str, ...]) -> str:
        return "; ".join(f"{self.sources[name].title}, {self.sources[name].address}" for name in names) or NOT_DOCUMENTED


def read_table(path: Path) -> RuleTable:
    """Read a table of rules.

    Raises:
        S2PError: it is missing, or not such a table.
    """
    try:
        return RuleTable.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise S2PError(f"cannot read the rules at {path}: {error.strerror}", "install the package again") from error
    except ValidationError as error:
        raise S2PError(
            f"{path} is no table of rules ({first_problem(error)})", "mend it, or install the package again"
        ) from error


@functools.cache
def rule_table() -> RuleTable:
    """The table that comes with the package."""
    return read_table(TABLE)
