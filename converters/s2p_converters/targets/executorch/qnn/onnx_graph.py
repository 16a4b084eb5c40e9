"""Writes ONNX graphs: nodes in memory, constants straight into a file beside them, so that no model is in memory twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from s2p_converters.core.packing import pack_nibbles
from s2p_runtime.component import TensorSpec

OPSET = 21
"""The first with 4-bit integers and with gain and shift of GroupNormalization per channel."""
_IR_VERSION = 10
_ALIGNMENT = 64
_INLINE = 1024
"""Bytes of a constant that stands in the model itself: shapes and axes must, to be known when the model is read."""
_TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
_ARRAY_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.uint16): TensorProto.UINT16,
}


@dataclass(frozen=True)
class Grid:
    """A static integer grid of a tensor: ``x̂ = scale (clamp(round(x / scale) + zero, 0, 2^bits - 1) - zero)``.

    Attributes:
        bits: 8 or 16.
        scale: positive.
        zero: the integer that stands for 0, on the grid.
    """

    bits: int
    scale: float
    zero: int

    @property
    def high(self) -> float:
        """The largest number on it."""
        return self.scale * ((1 << self.bits) - 1 - self.zero)

    @classmethod
    def of_range(cls, low: float, high: float, bits: int) -> Grid:
        """The finest grid that reaches from ``low`` to ``high`` and holds 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        steps = (1 << bits) - 1
        # Of a tensor that is 0 throughout any grid will do.
        scale = float(np.float32((high - low) / steps)) or 1.0
        return cls(bits, scale, int(np.clip(round(-low / scale), 0, steps)))


class OnnxGraph:
    """A graph that is being written. Equal constants stand once.

    Use as a context: on leaving it without an error the model is written.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of the ``.onnx``; constants go into ``.bin`` beside it.
        """
        self.path = path
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._initializers: list[Any] = []
        self._shapes: dict[str, Any] = {}
        self._known: dict[bytes, str] = {}
        self._rounded: dict[tuple[str, Grid], str] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> OnnxGraph:
        self._file = self._data_path.open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._file is not None
        self._file.close()
        if error is not None:
            return
        nodes = self._used_nodes()
        made = {name for node in nodes for name in node.output}
        shapes = [shape for value, shape in self._shapes.items() if value in made]
        graph = helper.make_graph(nodes, self.path.stem, self._inputs, self._outputs, self._initializers, value_info=shapes)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        self.path.write_bytes(model.SerializeToString(deterministic=True))

    @property
    def _data_path(self) -> Path:
        return self.path.with_suffix(".bin")

    def _used_nodes(self) -> list[Any]:
        """Nodes that an output depends on; later ones take from earlier ones."""
        needed = {output.name for output in self._outputs}
        used = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                used.append(node)
        return used[::-1]

    def input(self, port: TensorSpec) -> str:
        """Declare an input; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(port.name, _TYPES[port.dtype], port.shape))
        return port.name

    def output(self, port: TensorSpec, value: str) -> None:
        """Declare that a value is an output under the port's name."""
        self._nodes.append(helper.make_node("Identity", [value], [port.name], name=port.name))
        self._outputs.append(helper.make_tensor_value_info(port.name, _TYPES[port.dtype], port.shape))

    def node(self, kind: str, *inputs: str, outputs: int = 1, label: str = "", **attributes: Any) -> list[str]:
        """Append a node; returns the names of its outputs.

        Args:
            label: what it is part of, a layer's or a norm's name: messages of the compiler have it.
        """
        name = f"{label}/{kind}.{len(self._nodes)}" if label else f"{kind}.{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}:{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names

    def describe(self, value: str, shape: Sequence[int]) -> None:
        """Say which shape a float value has: readers do not find it out behind every kind of node."""
        self._shapes[value] = helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)

    def constant(self, values: NDArray[Any], name: str = "") -> str:
        """A constant of float32 or integers; returns its name.

        Args:
            name: where it is to be found in the file; such constants are not shared.
        """
        values = np.ascontiguousarray(values)
        return self._initializer(name, _ARRAY_TYPES[values.dtype], values.shape, values.tobytes())

    def numbers(self, *values: int) -> str:
        """A constant list of int64: shapes, axes, ends of slices."""
        return self.constant(np.array(values, np.int64))

    def int4(self, values: NDArray[np.int8], name: str = "") -> str:
        """A constant of 4-bit integers, two to a byte."""
        return self._initializer(name, TensorProto.INT4, values.shape, pack_nibbles(values).tobytes())

    def rounded(self, value: str, grid: Grid) -> str:
        """The value on a static grid; asked twice for the same it is there once."""
        key = (value, grid)
        if key not in self._rounded:
            kind = np.uint16 if grid.bits == 16 else np.uint8
            scale, zero = self.constant(np.array(grid.scale, np.float32)), self.constant(np.array(grid.zero, kind))
            (integers,) = self.node("QuantizeLinear", value, scale, zero)
            (self._rounded[key],) = self.node("DequantizeLinear", integers, scale, zero)
        return self._rounded[key]

    def _initializer(self, name: str, kind: int, shape: Sequence[int], data: bytes) -> str:
        key = hashlib.sha256(repr((kind, tuple(shape))).encode() + data).digest()
        if not name and key in self._known:
            return self._known[key]
        name = name or f"constant.{len(self._initializers)}"
        tensor = TensorProto(name=name, data_type=kind, dims=list(shape))
        if len(data) <= _INLINE:
            tensor.raw_data = data
        else:
            self._store(tensor, data)
        self._initializers.append(tensor)
        self._known.setdefault(key, name)
        return name

    def _store(self, tensor: Any, data: bytes) -> None:
        """Put a constant's bytes into the file beside the model."""
        assert self._file is not None
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(data)
        tensor.data_location = TensorProto.EXTERNAL
        for field, entry in (("location", self._data_path.name), ("offset", str(offset)), ("length", str(len(data)))):
            tensor.external_data.add(key=field, value=entry)


def read_initializers(path: Path) -> dict[str, Any]:
    """The constants of a written model by name, as onnx's own reader sees them: TensorProto with its data."""
    model = onnx.load(path)
    return {tensor.name: tensor for tensor in model.graph.initializer}
