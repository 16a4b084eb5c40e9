"""Where the operators of a program are expected to run, as a target's rules have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class OperatorPlacement:
    """What the rules say of one operator.

    Attributes:
        name: of its (first) output, as engines tell it.
        type: of the operator.
        stays: on the engine that the program was written for; None: no rule decides.
        rule: that decided, None where none did.
    """

    name: str
    type: str
    stays: bool | None
    rule: str | None


ExpectedPlacement: TypeAlias = Mapping[str, Sequence[OperatorPlacement]]
"""Program -> its operators in their order."""
