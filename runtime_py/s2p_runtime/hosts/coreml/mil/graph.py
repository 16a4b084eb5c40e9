"""A MIL function as plain data: constants apart, operations in program order, names for values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil.constants import Constant, Weight, read_constant
from s2p_runtime.hosts.coreml.mil.fusion import fused
from s2p_runtime.hosts.coreml.mil.operations import Argument, NamedType, Operation
from s2p_runtime.hosts.coreml.mil.types import tensor_type


@dataclass(frozen=True)
class Function:
    """One function of a program.

    Attributes:
        name: e.g. ``main``.
        inputs, outputs: in program order.
        constants: ``const`` and ``constexpr_*`` values by name, not yet read.
        operations: everything else, in program order.
        evaluated: what is evaluated in their place, see :mod:`fusion`.
        last_use: for each of ``evaluated``, the names whose values nothing after it reads.
    """

    name: str
    inputs: tuple[NamedType, ...]
    outputs: tuple[NamedType, ...]
    constants: Mapping[str, Weight]
    operations: tuple[Operation, ...]
    evaluated: tuple[Operation, ...] = field(repr=False)
    last_use: tuple[tuple[str, ...], ...] = field(repr=False)


def read_function(name: str, message: Any, blob: Callable[..., Any]) -> Function:
    """Read a ``Function`` message.

    Raises:
        S2PError: more than one specialization, unsupported values, or names that nothing defines.
    """
    if len(message.block_specializations) != 1:
        raise S2PError(
            f"function {name} has {len(message.block_specializations)} specializations, expected 1", "convert it again"
        )
    block = next(iter(message.block_specializations.values()))
    inputs = tuple(NamedType(item.name, tensor_type(item.type)) for item in message.inputs)
    types = {item.name: item.type for item in inputs}
    constants: dict[str, Weight] = {}
    operations: list[Operation] = []
    for item in block.operations:
        arguments = _arguments(item, blob)
        for names in arguments.values():
            for argument in names:
                if isinstance(argument, str) and argument not in types:
                    raise S2PError(f"operation {item.type} reads {argument}, which nothing defines", "convert the model again")
        outputs = tuple(NamedType(output.name, tensor_type(output.type)) for output in item.outputs)
        types.update((output.name, output.type) for output in outputs)
        if item.type == "const" or item.type.startswith("constexpr_"):
            constants.update((output.name, _weight(item.type, output, arguments, constants)) for output in outputs)
        else:
            operations.append(Operation(item.type, outputs, arguments))
    missing = [output for output in block.outputs if output not in types]
    if missing:
        raise S2PError(f"function {name} returns {missing[0]}, which nothing defines", "convert the model again")
    outputs = tuple(NamedType(output, types[output]) for output in block.outputs)
    kept = {output.name for output in outputs}
    evaluated = fused(operations, constants, kept)
    return Function(name, inputs, outputs, constants, tuple(operations), tuple(evaluated), _last_use(evaluated, kept))


def _arguments(message: Any, blob: Callable[..., Any]) -> dict[str, tuple[Argument, ...]]:
    """Inputs and attributes alike: which of the two holds a parameter depends on the operation set's version."""
    arguments: dict[str, tuple[Argument, ...]] = {
        key: (read_constant(value, blob),) for key, value in message.attributes.items() if key != "name"
    }
    for key, value in message.inputs.items():
        arguments[key] = tuple(
            binding.name if binding.WhichOneof("binding") == "name" else read_constant(binding.value, blob)
            for binding in value.arguments
        )
    return arguments


def _weight(form: str, output: NamedType, arguments: Mapping[str, tuple[Argument, ...]], known: Mapping[str, Weight]) -> Weight:
    sources: dict[str, Constant | Weight] = {}
    for key, values in arguments.items():
        if len(values) != 1:
            raise S2PError(f"weight {output.name} ({form}) has {len(values)} values for {key}", "convert the model again")
        value = values[0]
        if isinstance(value, str):
            if value not in known:
                raise S2PError(
                    f"weight {output.name} ({form}) depends on {value}, which is no constant", "convert the model again"
                )
            sources[key] = known[value]
        else:
            sources[key] = value
    return Weight(output.name, form, output.type, sources)


def _last_use(operations: list[Operation], kept: set[str]) -> tuple[tuple[str, ...], ...]:
    """Values to drop after each operation: read there for the last time, or made there and never read."""
    seen = set(kept)
    drops: list[tuple[str, ...]] = []
    for operation in reversed(operations):
        names = [*operation.reads, *(output.name for output in operation.outputs)]
        final = tuple(dict.fromkeys(name for name in names if name not in seen))
        seen.update(final)
        drops.append(final)
    return tuple(reversed(drops))
