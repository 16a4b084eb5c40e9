"""Arithmetic and bytes of a program's call, counted on its operators."""

from __future__ import annotations

import math

from s2p_converters.targets.coreml.residency.typed import TypedOperator, typed_operators, value_bytes
from s2p_runtime.bundle import Bundle
from s2p_runtime.conditioning import components_of
from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil import Constant, Function, TensorType, Weight
from s2p_runtime.hosts.coreml.mil.package import read_package
from s2p_runtime.workload import Workload

_PALETTE = "constexpr_lut_to_dense"


def bundle_workloads(bundle: Bundle) -> tuple[Workload, ...]:
    """Each program's call at the bundle's own picture size, the U-Net's first: of those that a picture from noise needs.

    Raises:
        S2PError: a program is damaged.
    """
    manifest = bundle.manifest
    own = manifest.sizes[0].method
    texts = 2 if manifest.guidance > 1 else 1
    found = []
    for name in (*manifest.unet_programs, *(each for each in components_of(bundle) if each != "unet")):
        functions = read_package(bundle.component(name)[1])
        function = functions.get(own or "main") or next(iter(functions.values()))
        runs = len(manifest.plan.calls) if name in manifest.unet_programs else texts if name.startswith("text") else 1
        found.append(function_workload(name, function, runs, unet=name in manifest.unet_programs))
    return tuple(found)


def function_workload(program: str, function: Function, runs: int, *, unet: bool) -> Workload:
    """One function's call.

    Args:
        program: what it is called.
        runs: calls a picture.
        unet: whether it is the U-Net or a part of it.

    Raises:
        S2PError: a product whose shapes are unknown, or contradict each other.
    """
    operators = list(typed_operators(function))
    integers = {
        output.name: value.type
        for each in operators
        if each.kind == "dequantize"
        for output in each.outputs
        for _, value in each.inputs[:1]
    }
    counts = {"integer": 0, "palette": 0, "float": 0}
    moved = 0
    for each in operators:
        try:
            operations = product_operations(each)
        except (ValueError, IndexError, KeyError) as error:
            raise S2PError(
                f"operator {each.name} of {program} has no shapes to count with ({error})", "convert it again"
            ) from error
        if operations:
            counts[_arithmetic(each, integers)] += operations
            if any(name == "weight" for name, _ in each.constants):
                moved += sum(value_bytes(integers.get(value.name, value.type)) for value in each.values)
    shape = next((value.type.shape for value in function.inputs if len(value.type.shape) > 1), (1,))
    return Workload(
        program=program,
        unet=unet,
        batch=shape[0] or 1,
        integer_operations=counts["integer"],
        palette_operations=counts["palette"],
        float_operations=counts["float"],
        weight_bytes=sum(weight.stored_bytes for weight in function.constants.values()),
        activation_bytes=moved,
        runs=runs,
    )


def product_operations(operator: TypedOperator) -> int:
    """Operations of a product, 0 of any other operator. A multiplication and an addition are two; biases are not counted.

    Raises:
        ValueError, IndexError, KeyError: shapes that no product has.
    """
    results = 2 * _count(operator.outputs[0].type)
    types = {name: value.type for name, value in operator.inputs} | {name: value.type for name, value in operator.constants}
    if operator.kind == "conv":
        return results * _product(types["weight"].shape[1:])
    if operator.kind == "conv_transpose":
        return 2 * _count(types["x"]) * _product(types["weight"].shape[1:])
    if operator.kind == "linear":
        return results * _product(types["weight"].shape[-1:])
    if operator.kind == "matmul":
        transposed = any(operator.numbers("transpose_x"))
        return results * _product(types["x"].shape[-2 if transposed else -1 :][:1])
    if operator.kind == "einsum":
        return results * _contracted(operator)
    if operator.kind == "scaled_dot_product_attention":
        scores = 2 * _product(types["query"].shape[:-1]) * _product(types["key"].shape[-2:-1])
        return scores * (_known(types["query"].shape[-1]) + _known(types["value"].shape[-1]))
    return 0


def _contracted(operator: TypedOperator) -> int:
    """Length of what an einsum sums over: labels of its operands that its result lacks."""
    equation = next(value for name, value in operator.constants if name == "equation")
    text = _text(equation).replace(" ", "")
    left, _, right = text.partition("->")
    sizes: dict[str, int] = {}
    operands = [value.type for name, value in (*operator.inputs, *operator.constants) if name == "values"]
    for labels, declared in zip(left.split(","), operands, strict=True):
        sizes.update(zip(labels, map(_known, declared.shape), strict=True))
    return math.prod(size for label, size in sizes.items() if label not in right)


def _text(value: Constant | Weight) -> str:
    if isinstance(value, Constant):
        return value.text()
    source = value.sources["val"]
    return source.text() if isinstance(source, Constant) else ""


def _arithmetic(operator: TypedOperator, integers: dict[str, TensorType]) -> str:
    """In what numbers a product is computed at best: of integers only where activations and weights are."""
    weights = [value for name, value in operator.constants if name == "weight"]
    if not any(value.name in integers for _, value in operator.inputs) or not weights:
        return "float"
    forms = _forms(weights[0])
    return "palette" if _PALETTE in forms else "integer" if any(form.startswith("constexpr_") for form in forms) else "float"


def _forms(value: Constant | Weight) -> set[str]:
    if isinstance(value, Constant):
        return set()
    return {value.form}.union(*map(_forms, value.sources.values()))


def _count(declared: TensorType) -> int:
    return _product(declared.shape)


def _product(sizes: tuple[int | None, ...]) -> int:
    return math.prod(map(_known, sizes))


def _known(size: int | None) -> int:
    if size is None:
        raise ValueError("a dimension is unknown")
    return size
