"""What an operation's implementation sees of its operation, and the registry of implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight
from s2p_runtime.hosts.coreml.mil.operations import Argument, Operation
from s2p_runtime.hosts.coreml.mil.types import ElementType

# torch lacks arithmetic on uint16, uint32 and uint64, so those travel in the next wider signed type.
_WIDER = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}
_TORCH = {"bool": torch.bool, "int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32}
_TORCH |= {"int64": torch.int64, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def carrier(element: ElementType) -> torch.dtype:
    """The torch dtype in which values of ``element`` travel."""
    return _WIDER.get(element.name) or _TORCH[element.holder.name]


def to_tensor(array: NDArray[Any], element: ElementType) -> Tensor:
    """A copy of ``array`` in its carrier dtype; floats keep the array's own dtype."""
    dtype = _TORCH[array.dtype.name] if element.kind == "float" else carrier(element)
    if array.dtype.name in _WIDER:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, order="C")).to(dtype)


def weight_tensor(weight: Weight, exact: bool) -> Tensor:
    """The dense value of a weight, copied only where it is a view of the package's file; ``exact`` as in :meth:`Weight.dense`."""
    dense = weight.dense(exact=exact)
    if weight.type.element.kind != "float":
        return to_tensor(dense, weight.type.element)
    return torch.from_numpy(np.require(dense, requirements=["C_CONTIGUOUS", "WRITEABLE"]))


class OpCall:
    """One evaluation of an operation: its arguments by parameter name.

    Floating-point arguments arrive in ``dtype`` (float32 or float64), integers and booleans in their carrier dtype.
    Methods without a default raise :class:`S2PError` when the parameter is missing.
    """

    def __init__(self, operation: Operation, resolve: Callable[[Argument], Tensor | Constant], dtype: torch.dtype) -> None:
        self.operation = operation
        self.dtype = dtype
        self._resolve = resolve

    @property
    def label(self) -> str:
        """The operation for messages: type and first output."""
        return f"{self.operation.kind} ({', '.join(output.name for output in self.operation.outputs[:1])})"

    def has(self, name: str) -> bool:
        return bool(self.operation.arguments.get(name))

    def unsupported(self, what: str) -> S2PError:
        """An error for a form of the operation that this interpreter does not evaluate."""
        return S2PError(
            f"operation {self.label} {what}, which the interpreter does not evaluate", "convert the model without it"
        )

    def tensors(self, name: str) -> list[Tensor]:
        """All values of a parameter that takes several."""
        arguments = self.operation.arguments.get(name)
        if not arguments:
            raise S2PError(f"operation {self.label} lacks its {name}", "the package is damaged, convert it again")
        values = []
        for argument in arguments:
            value = self._resolve(argument)
            if isinstance(value, Constant):
                value = to_tensor(value.array(), value.type.element)
            values.append(value.to(self.dtype) if value.is_floating_point() else value)
        return values

    def tensor(self, name: str) -> Tensor:
        return self.tensors(name)[0]

    def optional(self, name: str) -> Tensor | None:
        return self.tensor(name) if self.has(name) else None

    def ints(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A small integer or boolean vector (or scalar) as Python integers."""
        if default is not None and not self.has(name):
            return list(default)
        return [int(value) for value in self.tensor(name).reshape(-1).tolist()]

    def integer(self, name: str, default: int | None = None) -> int:
        return self.ints(name, None if default is None else (default,))[0]

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.integer(name, int(default)))

    def number(self, name: str, default: float | None = None) -> float:
        """A real scalar; constants arrive with their stored value, whatever ``dtype``."""
        if default is not None and not self.has(name):
            return default
        return float(self.tensor(name).item())

    def text(self, name: str, default: str | None = None) -> str:
        if default is not None and not self.has(name):
            return default
        if not self.has(name):
            raise S2PError(f"operation {self.label} lacks its {name}", "the package is damaged, convert it again")
        value = self._resolve(self.operation.arguments[name][0])
        if not isinstance(value, Constant) or value.type.element.kind != "string":
            raise S2PError(f"operation {self.label} has a {name} that is no text", "the package is damaged, convert it again")
        return value.text()


Implementation = Callable[[OpCall], "Tensor | Sequence[Tensor]"]

IMPLEMENTATIONS: dict[str, Implementation] = {}
"""Implementation of each run-time operation type; filled by importing :mod:`s2p_runtime.hosts.coreml.mil.ops`."""


def implements(*kinds: str) -> Callable[[Implementation], Implementation]:
    """Register the decorated function for these operation types."""

    def register(function: Implementation) -> Implementation:
        for kind in kinds:
            if kind in IMPLEMENTATIONS:
                raise ValueError(f"two implementations of {kind}")
            IMPLEMENTATIONS[kind] = function
        return function

    return register
