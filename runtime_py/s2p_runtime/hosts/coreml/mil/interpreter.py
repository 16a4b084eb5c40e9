"""Evaluating a MIL function with torch on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import ops  # noqa: F401  (fills IMPLEMENTATIONS)
from s2p_runtime.hosts.coreml.mil.calls import IMPLEMENTATIONS, OpCall, carrier, weight_tensor
from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight
from s2p_runtime.hosts.coreml.mil.graph import Function
from s2p_runtime.hosts.coreml.mil.operations import Argument, NamedType, Operation

Compute = Literal["declared", "float64"]


class DenseWeights:
    """Decompressed weights as tensors. Those of a function are kept for its next run if all of them fit a budget, else none: a part
    of them would save little time, and lie scattered in memory between the blocks that are freed.

    Args:
        budget: bytes to keep.
    """

    def __init__(self, budget: int) -> None:
        self._free = budget
        self._kept: dict[tuple[str, bool], dict[str, Tensor] | None] = {}

    def get(self, function: Function, weight: Weight, exact: bool) -> Tensor:
        """The dense value of a floating-point or integer weight; ``exact`` as in :meth:`Weight.dense`."""
        kept = self._place(function, exact)
        if kept is not None and weight.name in kept:
            return kept[weight.name]
        value = weight_tensor(weight, exact)
        # Half-precision weights are kept as computed with, so that repeated runs do not widen them again.
        value = value.float() if value.dtype == torch.float16 else value
        if kept is not None:
            kept[weight.name] = value
        return value

    def _place(self, function: Function, exact: bool) -> dict[str, Tensor] | None:
        """Where weights of the function are kept, ``None`` when they are not; at first sight it takes its share of the budget."""
        key = (function.name, exact)
        if key not in self._kept:
            names = {name for operation in function.evaluated for name in operation.reads if name in function.constants}
            size = sum(function.constants[name].type.count for name in names) * (8 if exact else 4)
            fits = size <= self._free
            self._free -= size if fits else 0
            self._kept[key] = {} if fits else None
        return self._kept[key]


@torch.no_grad()
def evaluate(function: Function, feeds: Mapping[str, Tensor], compute: Compute, weights: DenseWeights) -> dict[str, Tensor]:
    """Run ``function`` on ``feeds`` (one tensor for each input, in its carrier dtype).

    Returns:
        Outputs by name; floats in the declared dtype, or float64.

    Raises:
        S2PError: an operation that is unknown, fails, or gives another shape than the program declares.
    """
    for operation in function.operations:
        if operation.kind not in IMPLEMENTATIONS:
            raise S2PError(
                f"operation {operation.kind} (output {_first_output(operation)}) is not known to the interpreter",
                "convert the model without it, or run the package on a Mac",
            )
    exact = compute == "float64"
    arithmetic = torch.float64 if exact else torch.float32
    values = {name: _stored(value, function.inputs, name, exact) for name, value in feeds.items()}

    def resolve(argument: Argument) -> Tensor | Constant:
        if isinstance(argument, Constant):
            return argument
        if argument in values:
            return values[argument]
        weight = function.constants[argument]
        if weight.type.element.kind == "string":
            source = weight.sources["val"]
            assert isinstance(source, Constant)
            return source
        return weights.get(function, weight, exact)

    for operation, finished in zip(function.evaluated, function.last_use, strict=True):
        for output, value in zip(operation.outputs, _apply(operation, OpCall(operation, resolve, arithmetic)), strict=True):
            values[output.name] = _settle(operation, output, value, exact)
        for name in finished:
            values.pop(name, None)
    results = {output.name: resolve(output.name) for output in function.outputs}
    return {name: value for name, value in results.items() if isinstance(value, Tensor)}


def _first_output(operation: Operation) -> str:
    return operation.outputs[0].name if operation.outputs else "none"


def _stored(value: Tensor, declared: tuple[NamedType, ...], name: str, exact: bool) -> Tensor:
    """A fed value as the program holds it."""
    element = next(item.type.element for item in declared if item.name == name)
    return value.to(torch.float64 if exact and element.kind == "float" else carrier(element))


def _apply(operation: Operation, call: OpCall) -> list[Tensor]:
    try:
        result = IMPLEMENTATIONS[operation.kind](call)
    except (RuntimeError, ValueError, LookupError, TypeError, OverflowError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise S2PError(f"operation {call.label} failed: {reason}", "the package is damaged, convert it again") from error
    results = [result] if isinstance(result, Tensor) else list(result)
    if len(results) != len(operation.outputs):
        raise S2PError(
            f"operation {call.label} gave {len(results)} values, the program declares {len(operation.outputs)}",
            "the package is damaged, convert it again",
        )
    return results


def _settle(operation: Operation, output: NamedType, value: Tensor, exact: bool) -> Tensor:
    """Check a result's shape and round it to its declared dtype (floats stay float64 in exact evaluation)."""
    if not output.type.admits(tuple(value.shape)):
        raise S2PError(
            f"operation {operation.kind} (output {output.name}) gave shape {tuple(value.shape)}, the program declares "
            f"{output.type}",
            "the package is damaged, convert it again",
        )
    element = output.type.element
    if element.kind == "float":
        return value.to(torch.float64 if exact else carrier(element))
    return value.to(carrier(element))
