"""Operators of a function together with the types of what they read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from s2p_runtime.hosts.coreml.mil import Constant, Function, NamedType, Operation, TensorType, Weight


@dataclass(frozen=True)
class TypedOperator:
    """One operator.

    Attributes:
        place: in the function's order, from 0.
        inputs: run-time values that it reads, by parameter, with their types; a parameter with several values comes several times.
        constants: the same of what is known when the program is compiled.
        reads_inputs, makes_outputs: names of the program's own inputs and outputs among its values.
    """

    place: int
    operation: Operation
    inputs: tuple[tuple[str, NamedType], ...]
    constants: tuple[tuple[str, Constant | Weight], ...]
    reads_inputs: frozenset[str]
    makes_outputs: frozenset[str]

    @property
    def name(self) -> str:
        """Of its first output."""
        return self.operation.outputs[0].name

    @property
    def kind(self) -> str:
        """Such as ``conv``."""
        return self.operation.kind

    @property
    def outputs(self) -> tuple[NamedType, ...]:
        """What it makes."""
        return self.operation.outputs

    @property
    def values(self) -> tuple[NamedType, ...]:
        """Run-time values that it reads or makes."""
        return (*(value for _, value in self.inputs), *self.outputs)

    def numbers(self, parameter: str) -> tuple[float, ...]:
        """What a parameter holds; nothing where it is left out, no number, or known at run time only."""
        for name, value in self.constants:
            if name == parameter and value_type(value).element.kind in ("int", "float", "bool"):
                array = value.dense() if isinstance(value, Weight) else value.array()
                return tuple(float(number) for number in array.reshape(-1))
        return ()


def value_type(value: Constant | Weight) -> TensorType:
    """The declared type of a constant."""
    return value.type


def value_bytes(declared: TensorType, block: int = 1) -> int:
    """Bytes of a value; 0 where a dimension is unknown.

    Args:
        block: the last axis is filled up to a multiple of so many bytes.
    """
    if None in declared.shape:
        return 0
    shape = tuple(size for size in declared.shape if size is not None) or (1,)
    row = shape[-1] * declared.element.bits // 8
    rows = 1
    for size in shape[:-1]:
        rows *= size
    return rows * -(-row // block) * block


def typed_operators(function: Function) -> Iterator[TypedOperator]:
    """A function's operators in its order."""
    types = {value.name: value for value in function.inputs}
    own, results = {value.name for value in function.inputs}, {value.name for value in function.outputs}
    for place, operation in enumerate(function.operations):
        inputs: list[tuple[str, NamedType]] = []
        constants: list[tuple[str, Constant | Weight]] = []
        for parameter, arguments in operation.arguments.items():
            for argument in arguments:
                if not isinstance(argument, str):
                    constants.append((parameter, argument))
                elif argument in function.constants:
                    constants.append((parameter, function.constants[argument]))
                else:
                    inputs.append((parameter, types[argument]))
        types.update((output.name, output) for output in operation.outputs)
        yield TypedOperator(
            place,
            operation,
            tuple(inputs),
            tuple(constants),
            frozenset(value.name for _, value in inputs) & own,
            frozenset(value.name for value in operation.outputs) & results,
        )
