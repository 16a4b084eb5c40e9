"""Operations of a MIL function as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s2p_runtime.hosts.coreml.mil.constants import Constant
from s2p_runtime.hosts.coreml.mil.types import TensorType

Argument = str | Constant
"""A value's name, or a literal that stands in the operation itself."""


@dataclass(frozen=True)
class NamedType:
    name: str
    type: TensorType


@dataclass(frozen=True)
class Operation:
    """One run-time operation.

    Attributes:
        kind: operation type, e.g. ``conv``.
        outputs: names and declared types.
        arguments: by parameter name; parameters that take several values (``values`` of concat) have several.
        between: values that a fused operation (:mod:`fusion`) makes on its way, which the program declares and nobody else reads.
    """

    kind: str
    outputs: tuple[NamedType, ...]
    arguments: Mapping[str, tuple[Argument, ...]]
    between: tuple[NamedType, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values and constants that it reads, as often as it reads them."""
        return tuple(name for values in self.arguments.values() for name in values if isinstance(name, str))
