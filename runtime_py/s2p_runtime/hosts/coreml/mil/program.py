"""Reference interpreter for Core ML ML programs: run an ``.mlpackage`` where Core ML does not exist.

Two ways to compute:

``declared``
    Every operation computes in float32 and its result is rounded to the operation's declared dtype, so an fp16 program has
    fp16 values between operations (accumulation in float32). int8 quantize and dequantize are exact integer operations.
    Core ML's own backends fuse and reorder, so a device agrees within rounding noise, not bit for bit.

``float64``
    Floating-point values are float64 throughout; constants keep the values that stand in the file (fp16 or fp32), and the
    product of a compressed weight's integer and scale is not rounded. Only quantization to integers rounds. This is the
    function that the program denotes, up to about 1e-12, and the way to compare a quantized program with a reference: in
    float32 a difference of one unit in the last place ahead of a rounding to int8 can flip an integer, which moves outputs
    by whole quantization steps although nothing is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.errors import S2PError
from s2p_runtime.hosts.coreml.mil.constants import Weight
from s2p_runtime.hosts.coreml.mil.graph import Function
from s2p_runtime.hosts.coreml.mil.operations import NamedType
from s2p_runtime.hosts.coreml.mil.package import read_package
from s2p_runtime.hosts.coreml.mil.types import ElementType

if TYPE_CHECKING:
    from s2p_runtime.hosts.coreml.mil.interpreter import DenseWeights

_WEIGHT_CACHE_BYTES = 512 << 20


class Program:
    """The ML program of one ``.mlpackage``; make it with :func:`load_program`.

    Attributes:
        functions: names of its functions, sorted.
    """

    def __init__(self, path: Path, functions: Mapping[str, Function], weight_cache_bytes: int) -> None:
        self._path = path
        self._functions = dict(functions)
        self._weight_cache_bytes = weight_cache_bytes
        self._dense: DenseWeights | None = None
        self.functions = tuple(sorted(functions))

    @property
    def inputs(self) -> tuple[NamedType, ...]:
        """Inputs of the main function: name, element type, shape (``None`` for a flexible dimension)."""
        return self.function().inputs

    @property
    def outputs(self) -> tuple[NamedType, ...]:
        """Outputs of the main function."""
        return self.function().outputs

    def function(self, name: str = "main") -> Function:
        """One function. :class:`S2PError` when the program lacks it."""
        if name not in self._functions:
            raise S2PError(f"{self._path.name} has no function {name}", f"it has {', '.join(self.functions) or 'none'}")
        return self._functions[name]

    def operation_counts(self, function: str = "main") -> Counter[str]:
        """How many operations of each type the function has, compile-time ones included."""
        graph = self.function(function)
        return Counter([op.kind for op in graph.operations] + [weight.form for weight in graph.constants.values()])

    def weights(self, function: str = "main") -> Iterator[Weight]:
        """Tensor constants in program order, compressed or not; one that only feeds another constexpr comes as its part."""
        constants = self.function(function).constants
        parts = {
            source.name for weight in constants.values() for source in weight.sources.values() if isinstance(source, Weight)
        }
        return (weight for weight in constants.values() if weight.name not in parts and weight.type.element.kind != "string")

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        compute: Literal["declared", "float64"] = "declared",
        function: str = "main",
    ) -> dict[str, NDArray[Any]]:
        """Evaluate one function.

        Args:
            inputs: one array for each input, by name, in the declared shape. Floating-point inputs take any floating dtype
                and are rounded to the declared one, except in ``float64``. Integer inputs take any integer dtype.
            compute: ``declared`` or ``float64``, see the module's description.
            function: name of the function.

        Returns:
            Outputs by name, in program order; float64 arrays from ``float64``, else the declared dtype.

        Raises:
            S2PError: missing, unknown or ill-shaped inputs, or anything in the program that cannot be evaluated.
        """
        from s2p_runtime.hosts.coreml.mil.calls import to_tensor
        from s2p_runtime.hosts.coreml.mil.interpreter import DenseWeights, evaluate

        if compute not in ("declared", "float64"):
            raise S2PError(f"unknown arithmetic {compute!r}", "choose declared or float64")
        graph = self.function(function)
        feeds = {
            item.name: to_tensor(array, item.type.element) for item, array in _checked_inputs(self._path.name, graph, inputs)
        }
        if self._dense is None:
            self._dense = DenseWeights(self._weight_cache_bytes)
        results = evaluate(graph, feeds, compute, self._dense)
        return {
            item.name: _returned(results[item.name].numpy(), item.type.element, compute == "float64") for item in graph.outputs
        }


def load_program(path: Path | str, *, weight_cache_bytes: int = _WEIGHT_CACHE_BYTES) -> Program:
    """Read the ML program of an ``.mlpackage`` folder. Weights are memory-mapped and decompressed when an operation needs them.

    Args:
        path: the folder.
        weight_cache_bytes: how many bytes of decompressed weights to keep between runs. A function whose weights do not fit
            decompresses each when it needs it and lets it go.

    Raises:
        S2PError: no such package, a damaged one, or one without an ML program.
    """
    return Program(Path(path), read_package(Path(path)), weight_cache_bytes)


def _checked_inputs(name: str, graph: Function, inputs: Mapping[str, NDArray[Any]]) -> Iterator[tuple[NamedType, NDArray[Any]]]:
    declared = {item.name: item for item in graph.inputs}
    for given in inputs:
        if given not in declared:
            raise S2PError(f"{name} has no input {given!r}", f"its inputs are {', '.join(declared)}")
    for item in graph.inputs:
        if item.name not in inputs:
            raise S2PError(f"{name} needs input {item.name!r} of type {item.type}", "pass it")
        array = np.asarray(inputs[item.name])
        if not item.type.admits(array.shape):
            raise S2PError(f"input {item.name!r} of {name} has shape {array.shape}, declared {item.type}", "pass that shape")
        yield item, _checked_dtype(name, item, array)


def _checked_dtype(name: str, item: NamedType, array: NDArray[Any]) -> NDArray[Any]:
    element = item.type.element
    if element.kind == "float" and array.dtype in (np.float16, np.float32, np.float64):
        return array
    if element.kind == "bool" and array.dtype == np.bool_:
        return array
    if element.kind == "int" and array.dtype.kind in "iu":
        cast = array.astype(element.holder)
        if not np.array_equal(cast, array):
            raise S2PError(f"input {item.name!r} of {name} has values outside {element.name}", "pass smaller values")
        return cast
    raise S2PError(f"input {item.name!r} of {name} has dtype {array.dtype}, declared {item.type}", "pass that dtype")


def _returned(array: NDArray[Any], element: ElementType, exact: bool) -> NDArray[Any]:
    """A copy that shares nothing with the weights kept for the next run."""
    return array.astype(np.float64 if exact and element.kind == "float" else element.holder, copy=True)
