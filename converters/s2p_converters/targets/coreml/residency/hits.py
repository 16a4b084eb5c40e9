"""How each kind of test in the table is carried out on an operator."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from s2p_converters.targets.coreml.residency.table import (
    AxisNot,
    BatchedProduct,
    DynamicShape,
    ElementTypes,
    InterfaceCast,
    LastAxis,
    LastAxisPower,
    MovesLastAxis,
    NumberAbove,
    OperatorTest,
    RankAbove,
    ValueBytesAbove,
)
from s2p_converters.targets.coreml.residency.typed import TypedOperator, value_bytes, value_type


@dataclass(frozen=True)
class Hit:
    """That a rule speaks of an operator.

    Attributes:
        words: what was found.
        bytes: that it costs, for padding and copies.
    """

    words: str
    bytes: int = 0


@functools.singledispatch
def hit(test: OperatorTest, operator: TypedOperator) -> Hit | None:
    """Whether a rule's test speaks of an operator; None: it does not."""
    raise NotImplementedError(f"no test of kind {test.kind}")


@hit.register
def _(test: InterfaceCast, operator: TypedOperator) -> Hit | None:
    if operator.kind != "cast":
        return None
    for _, value in operator.inputs:
        if value.name in operator.reads_inputs and value.type.element.name in test.types:
            return Hit(f"input {value.name} {value.type}")
    for value in operator.outputs:
        if value.name in operator.makes_outputs and value.type.element.name in test.types:
            return Hit(f"output {value.name} {value.type}")
    return None


@hit.register
def _(test: DynamicShape, operator: TypedOperator) -> Hit | None:
    return next((Hit(f"{value.name} {value.type}") for value in operator.values if None in value.type.shape), None)


@hit.register
def _(test: RankAbove, operator: TypedOperator) -> Hit | None:
    return next((Hit(f"{value.name} {value.type}") for value in operator.values if len(value.type.shape) > test.limit), None)


@hit.register
def _(test: ElementTypes, operator: TypedOperator) -> Hit | None:
    for value in operator.values:
        if value.type.element.name in test.types:
            return Hit(f"{value.name} {value.type}")
    for parameter, constant in operator.constants if test.literals else ():
        if parameter not in test.settings and value_type(constant).element.name in test.types:
            return Hit(f"constant {parameter} {value_type(constant)}")
    return None


@hit.register
def _(test: NumberAbove, operator: TypedOperator) -> Hit | None:
    if operator.kind not in test.operators:
        return None
    for parameter in sorted(test.parameters):
        above = [number for number in operator.numbers(parameter) if number > test.limit]
        if above:
            return Hit(f"{parameter} {max(above):g}")
    return None


@hit.register
def _(test: AxisNot, operator: TypedOperator) -> Hit | None:
    if operator.kind not in test.operators or not operator.inputs:
        return None
    shape = operator.inputs[0][1].type.shape
    for parameter in sorted(test.parameters):
        axes = {int(axis) % max(1, len(shape)) for axis in operator.numbers(parameter)}
        if axes and axes != {test.axis}:
            return Hit(f"over axis {', '.join(map(str, sorted(axes)))} of {operator.inputs[0][1].type}")
    return None


@hit.register
def _(test: BatchedProduct, operator: TypedOperator) -> Hit | None:
    if operator.kind not in test.operators:
        return None
    shape = operator.outputs[0].type.shape
    heads = shape[1] if len(shape) > 3 else None
    return Hit(f"{heads} at once, {operator.outputs[0].type}") if heads is not None and heads > 1 else None


@hit.register
def _(test: LastAxis, operator: TypedOperator) -> Hit | None:
    # What of the outputs the rule speaks of; an axis of length 1 is the other rule's.
    fitting = [each for each in operator.outputs if (_last(each.type.shape) == 1) == test.only_one]
    added = sum(value_bytes(each.type, test.block_bytes) - value_bytes(each.type) for each in fitting)
    return Hit(f"{fitting[0].type}", added) if added else None


@hit.register
def _(test: LastAxisPower, operator: TypedOperator) -> Hit | None:
    for each in operator.outputs:
        last = _last(each.type.shape)
        if last is not None and last * each.type.element.bits // 8 >= test.block_bytes and last & (last - 1):
            return Hit(f"{each.type}")
    return None


@hit.register
def _(test: MovesLastAxis, operator: TypedOperator) -> Hit | None:
    if operator.kind not in test.operators or not operator.inputs:
        return None
    source, result = operator.inputs[0][1].type, operator.outputs[0].type
    moves = _last(source.shape) != _last(result.shape)
    if order := operator.numbers("perm"):
        moves = int(order[-1]) % len(source.shape) != len(source.shape) - 1
    return Hit(f"{source} to {result}", value_bytes(source) + value_bytes(result)) if moves else None


@hit.register
def _(test: ValueBytesAbove, operator: TypedOperator) -> Hit | None:
    return next((Hit(f"{each.type}") for each in operator.outputs if value_bytes(each.type) > test.limit), None)


def _last(shape: tuple[int | None, ...]) -> int | None:
    """Length of the last axis; a scalar is a row of one."""
    return shape[-1] if shape else 1
