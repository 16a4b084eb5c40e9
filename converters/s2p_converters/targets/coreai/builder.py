"""Writes a Core AI program with Apple's authoring library: graphs, named constants, composites that its compilers know.

Imported in the process that converts only (:mod:`s2p_converters.targets.coreai.worker`).
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import coreai.authoring as ca
import numpy as np
from coreai._compiler.dialects.coreai import ConstantOp
from coreai._compiler.ir import DenseResourceElementsAttr, F16Type, F32Type, IntegerType, RankedTensorType
from coreai.authoring import Value, graph_builder
from coreai_torch import generate_composite_decl
from coreai_torch.debugging.debug_info import strip_debug_info
from numpy.typing import NDArray

from s2p_converters.targets.coreai.weights import EmittedWeight, packed
from s2p_runtime.component import TensorSpec
from s2p_runtime.hosts.coreai.constants import drawn_name, operations_of, stored_bytes

AXIS = np.array(0, np.int32)
_NO_DATE = "19700101T000000Z"
"""In the form of Apple's own ``metadata.json``."""


@contextmanager
def repeatable_names() -> Iterator[None]:
    """Number the graphs of composites: Apple's library gives them random names, and equal programs should be equal bytes."""
    numbers = itertools.count()
    drawn = graph_builder._randomize_fn_name
    graph_builder._randomize_fn_name = lambda name: f"{name}_{next(numbers)}"
    try:
        yield
    finally:
        graph_builder._randomize_fn_name = drawn


class Builder:
    """One program that is being written.

    Attributes:
        dtype: of its floats.
    """

    def __init__(self, half: bool) -> None:
        self.dtype: type[np.floating[Any]] = np.float16 if half else np.float32
        self._module = ca.Module.create()
        self._attributes: dict[str, Any] = {}
        self._composites: dict[tuple[Any, ...], Callable[..., list[Value]]] = {}

    def graph(
        self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], body: Callable[..., Sequence[Value]]
    ) -> None:
        """Add a function ``name`` of the program; ``body`` takes and returns values in the order of the ports."""
        takes = {port.name: Annotated[Value, _type(port)] for port in inputs}
        gives = tuple[tuple(Annotated[Value, _type(port)] for port in outputs)]  # type: ignore[misc, valid-type]
        function = _function(name, takes, gives, lambda *values: tuple(body(*values)))
        # Every clean exit rewrites the module: constants that are equal become one.
        with self._module:
            ca.graph(function, provided_name=name)

    def save(self, path: Path) -> None:
        """Write the program as an ``.aimodel``."""
        save_program(ca.AIProgram(self._module), path)

    # Constants

    def floats(self, name: str, values: NDArray[Any]) -> Value:
        """A constant in the program's precision under a name of its own, by which readers find it."""
        narrow = np.ascontiguousarray(values.astype(self.dtype))
        kind = F16Type if self.dtype is np.float16 else F32Type
        return self._constant(name, narrow, values.shape, lambda: kind.get())

    def weight(self, weight: EmittedWeight) -> Value:
        """A layer's weight ``q * 2^-k`` of its own shape, compressed."""
        layer, bits = weight.layer, weight.bits
        shape, name = layer.spec.weight_shape, f"{layer.spec.name}.weight"
        kind = IntegerType.get_unsigned if weight.form == "palette" else IntegerType.get_signed
        stored = self._attributes.get(name)
        data = np.zeros(0, np.uint8) if stored is not None else packed(weight.stored, bits)
        values = self._constant(name, data, shape, lambda: kind(bits))
        ones = [1] * len(shape)
        if weight.form == "palette":
            table = weight.table.astype(self.dtype).reshape(*ones, -1, 1)
            return ca.lut_to_dense(values, table, np.array(0, np.int16))
        scale = np.full(ones, 2.0**-weight.shift, self.dtype)
        zeros = np.zeros((packed(np.zeros(1, np.uint8), bits).size,), np.uint8)
        offset = self._constant(f"zero.int{bits}.{len(ones)}", zeros, ones, lambda: IntegerType.get_signed(bits))
        return ca.blockwise_shift_scale(values, scale, offset, np.zeros(ones, self.dtype))

    def _constant(self, name: str, data: NDArray[Any], shape: Sequence[int], element: Callable[[], Any]) -> Value:
        if name not in self._attributes:
            kind = RankedTensorType.get(list(shape), element())
            self._attributes[name] = DenseResourceElementsAttr.get_from_buffer(data, name, kind)
        return Value._from_mlir(ConstantOp(value=self._attributes[name]).result)

    # Composites: graphs that Apple's compilers know by name, with a body for those that do not.

    def composite(
        self, name: str, names: Sequence[str], attributes: dict[str, Any], body: Callable[..., Value], operands: Sequence[Value]
    ) -> Value:
        """Call ``name`` with operands called ``names``; calls alike share a graph."""
        key = (name, repr(attributes), *(str(value.type) for value in operands))
        if key not in self._composites:
            context = self._module._context
            declared = generate_composite_decl(context, name, list(names), ["output"], dict(attributes))
            function = _function(name, dict.fromkeys(names, Value), Value, lambda *values: [body(*values)])
            self._composites[key] = ca.graph(function, private=True, no_inline=True, composite_decl=declared)
        (result,) = self._composites[key](*operands)
        return result


def save_program(program: ca.AIProgram, path: Path) -> None:
    """Write a program as an ``.aimodel`` whose bytes depend on nothing but itself: no places in our source, no date."""
    strip_debug_info(program)
    _name_resources(program)
    program.save_asset(path)
    metadata = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    metadata |= {"author": "s2p-mobile", "creationDate": _NO_DATE}
    (path / "metadata.json").write_text(json.dumps(metadata, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _name_resources(program: ca.AIProgram) -> None:
    """Number the large constants: Apple's library names them after places in memory, the same for equal bytes in two shapes."""
    module = program._module._mlir_module
    known: dict[tuple[str, str], Any] = {}
    with module.context:
        for graph in module.body.operations:
            for operation in operations_of(graph):
                if operation.name != "coreai.constant" or (place := drawn_name(operation)) is None:
                    continue
                kind = operation.attributes["value"].type
                key = (place, str(kind))
                if key not in known:
                    data = stored_bytes(operation)
                    known[key] = DenseResourceElementsAttr.get_from_buffer(data, f"constant_{len(known)}", kind)
                operation.attributes["value"] = known[key]


def _function(name: str, takes: dict[str, Any], gives: Any, body: Callable[..., Any]) -> Callable[..., Any]:
    """A function with parameters of these names and types, which is what Apple's library makes graphs of."""

    def function(*values: Value) -> Any:
        return body(*values)

    parameters = [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in takes]
    function.__name__, function.__signature__ = name, inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {**takes, "return": gives}
    return function


def _type(port: TensorSpec) -> ca.TensorType:
    return ca.TensorType(port.shape, np.dtype(port.dtype).type, name=port.name)


__all__ = ["AXIS", "Builder", "Value", "ca", "repeatable_names", "save_program"]
