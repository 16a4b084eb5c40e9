"""Writes XNNPACK subgraphs node by node.

The stock partitioner decides by pattern what XNNPACK may run, and a pattern that it does not know is left outside (or, with
integers, computed wrongly). Here the datatypes of every node are written down by us, images lie in NHWC from end to end as
XNNPACK wants them, and the whole network is one subgraph. The serialized form is ExecuTorch's own (``XNNGraph`` flatbuffer
behind an ``XH00`` header), so its runtime cannot tell the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_runtime.quiet import quiet_import

with quiet_import():
    from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader, serialize_xnnpack_binary
    from executorch.backends.xnnpack.utils.xnnpack_constants import (
        UINT64_MAX,
        XNN_FLAG_KEEP_DIMS,
        XNN_FLAG_TRANSPOSE_B,
        XNN_INVALID_VALUE_ID,
        XNN_VALUE_FLAG_EXTERNAL_INPUT,
        XNN_VALUE_FLAG_EXTERNAL_OUTPUT,
    )
    from executorch.exir._serialize._named_data_store import NamedDataStore

DataType = schema.XNNDatatype
__all__ = ["Array32", "DataType", "NamedDataStore", "Subgraph", "Value", "Weights", "XNNHeader", "pack_qcint4"]
Array32 = NDArray[np.float32]

_ALIGNMENT = 16


@dataclass(frozen=True)
class Value:
    """A tensor of a subgraph.

    Attributes:
        id: its number in the serialized graph.
        shape: as XNNPACK sees it; images are NHWC.
    """

    id: int
    shape: tuple[int, ...]
    datatype: Any = DataType.xnn_datatype_fp32


@dataclass(frozen=True)
class Weights:
    """Integers of a convolution [O, kh, kw, I] or a fully connected layer [O, I].

    Attributes:
        integers: int8.
        scale: float32 [O].
        bits: 8 (qcint8), or 4 (qcint4, two to a byte; fully connected layers only).
    """

    integers: NDArray[np.int8]
    scale: Array32
    bits: int = 8


def pack_qcint4(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """[O, I] in [-8, 7] -> uint8 [O, ceil(I / 2)]: XNNPACK's form has zero point 8 and the even column in the low nibble."""
    rows = np.pad(integers, ((0, 0), (0, integers.shape[1] % 2)))
    unsigned = (rows.astype(np.int16) + 8).astype(np.uint8)
    return (unsigned[:, 0::2] | (unsigned[:, 1::2] << np.uint8(4))).astype(np.uint8)


class Subgraph:
    """A subgraph under construction. Methods append a node and return its output."""

    def __init__(self, names: Sequence[str] = (), store: NamedDataStore | None = None) -> None:
        """
        Args:
            names: layers of the network in a fixed order; a layer's node carries its place in it, from 1, as debug handle.
            store: where constants are kept; subgraphs of one program that share it hold equal constants in memory once.
        """
        self._handles = {name: index + 1 for index, name in enumerate(names)}
        self._values: list[Any] = []
        self._nodes: list[Any] = []
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._buffers: dict[str, int] = {}
        self._packed: dict[tuple[str, tuple[int, ...]], Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...]], tuple[Value, Array32]] = {}
        self._data: list[Any] = [schema.ConstantDataOffset(0, 0)]
        self._store = NamedDataStore() if store is None else store

    # Values

    def _define(
        self, shape: Sequence[int], datatype: Any = DataType.xnn_datatype_fp32, quantization: Any = None, buffer: int = 0
    ) -> Value:
        value = Value(len(self._values), tuple(int(n) for n in shape), datatype)
        tensor = schema.XNNTensorValue(
            datatype=datatype,
            num_dims=len(value.shape),
            dims=list(value.shape),
            external_id=XNN_INVALID_VALUE_ID,
            constant_buffer_idx=buffer,
            flags=0,
            id_out=value.id,
        )
        held = tensor if quantization is None else schema.XNNQuantizedTensorValue(tensor, quantization)
        self._values.append(schema.XValue(held))
        return value

    def input(self, shape: Sequence[int]) -> Value:
        """An fp32 input; inputs are given in the order of these calls."""
        self._inputs.append(self._define(shape))
        return self._inputs[-1]

    def output(self, value: Value) -> None:
        """Make a value (not an input) an output of the subgraph."""
        self._outputs.append(value)

    def _store_bytes(self, data: bytes, prefix: str = "") -> int:
        """Index of a constant buffer with these bytes."""
        # Named, not inside the subgraph's own bytes, so that methods and programs share it.
        name = prefix + hashlib.sha256(data).hexdigest()
        if name not in self._buffers:
            self._store.add_named_data(name, data, _ALIGNMENT)
            self._buffers[name] = len(self._data)
            self._data.append(schema.ConstantDataOffset(offset=UINT64_MAX, size=len(data), named_key=name))
        return self._buffers[name]

    def constant(self, array: Array32) -> Value:
        """An fp32 constant for elementwise nodes; equal ones are given once.

        It is an input that :func:`~s2p_converters.targets.executorch.xnnpack.program.delegate` feeds. The runtime frees a
        subgraph's own constants after loading as soon as XNNPACK has packed them, and with XNNPACK's weight cache (on in
        ExecuTorch's Android package) all of them, while elementwise nodes pack nothing and would go on reading them where they were.
        """
        array = np.ascontiguousarray(array, np.float32)
        key = (hashlib.sha256(array.tobytes()).hexdigest(), array.shape)
        if key not in self._constants:
            self._constants[key] = self._define(array.shape), array
        return self._constants[key][0]

    def _packed_constant(self, array: Array32) -> Value:
        """An fp32 filter or bias of a layer, which XNNPACK copies when it loads; equal ones are stored once."""
        array = np.ascontiguousarray(array, np.float32)
        key = (hashlib.sha256(array.tobytes()).hexdigest(), array.shape)
        if key not in self._packed:
            self._packed[key] = self._define(array.shape, buffer=self._store_bytes(array.tobytes()))
        return self._packed[key]

    def _bias(self, bias: Array32 | None) -> int:
        """Id of a layer's bias."""
        return XNN_INVALID_VALUE_ID if bias is None else self._packed_constant(bias).id

    def _weights(self, weights: Weights) -> Value:
        integers = weights.integers
        channels = integers.shape[0]
        packed = pack_qcint4(integers) if weights.bits == 4 else np.ascontiguousarray(integers)
        scale = np.ascontiguousarray(weights.scale, np.float32)
        quantization = schema.PerChannelQuant(
            scale=[], channel_dim=0, scale_buffer_idx=self._store_bytes(scale.tobytes(), "scale_"), num_scales=channels
        )
        datatype = DataType.xnn_datatype_qcint4 if weights.bits == 4 else DataType.xnn_datatype_qcint8
        return self._define(integers.shape, datatype, quantization, self._store_bytes(packed.tobytes()))

    # Elementwise nodes

    def _node(self, node: Any, label: str | None = None) -> None:
        handle = 0 if label is None else self._handles.get(label, 0)
        self._nodes.append(schema.XNode(xnode_union=node, debug_handle=handle, output_min_max=None))

    def _unary(self, kind: Any, x: Value, shape: Sequence[int] | None = None, flags: int = 0) -> Value:
        out = self._define(x.shape if shape is None else shape)
        self._node(kind(input_id=x.id, output_id=out.id, flags=flags))
        return out

    def _binary(self, kind: Any, a: Value, b: Value) -> Value:
        out = self._define(np.broadcast_shapes(a.shape, b.shape))
        self._node(kind(input1_id=a.id, input2_id=b.id, output_id=out.id, flags=0))
        return out

    def add(self, a: Value, b: Value) -> Value:
        """a + b with broadcasting, as the other binary nodes."""
        return self._binary(schema.XNNAdd, a, b)

    def subtract(self, a: Value, b: Value) -> Value:
        """a - b."""
        return self._binary(schema.XNNSubtract, a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        """a * b."""
        return self._binary(schema.XNNMultiply, a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """min(a, b)."""
        return self._binary(schema.XNNMinimum, a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """max(a, b)."""
        return self._binary(schema.XNNMaximum, a, b)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + exp(-x))."""
        return self._unary(schema.XNNSigmoid, x)

    def gelu(self, x: Value) -> Value:
        """x * Phi(x), the exact GELU."""
        return self._unary(schema.XNNGelu, x)

    def square(self, x: Value) -> Value:
        """x * x."""
        return self._unary(schema.XNNSquare, x)

    def reciprocal_square_root(self, x: Value) -> Value:
        """1 / sqrt(x)."""
        return self._unary(schema.XNNReciprocalSquareRoot, x)

    def softmax(self, x: Value) -> Value:
        """Softmax over the last axis."""
        return self._unary(schema.XNNSoftmax, x)

    # Shapes

    def mean(self, x: Value) -> Value:
        """[N, H, W, C] -> [N, 1, 1, C]."""
        n, _, _, c = x.shape
        return self._unary(schema.XNNGlobalAvgPooling2d, x, (n, 1, 1, c), XNN_FLAG_KEEP_DIMS)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """Same elements, other shape; a reshape to the same shape adds no node."""
        if tuple(shape) == x.shape:
            return x
        out = self._define(shape)
        self._node(
            schema.XNNStaticReshape(
                num_dims=len(out.shape), new_shape=list(out.shape), input_id=x.id, output_id=out.id, flags=0
            )
        )
        return out

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Axis i of the result is axis ``order[i]`` of x."""
        out = self._define([x.shape[i] for i in order])
        self._node(schema.XNNStaticTranspose(num_dims=len(order), perm=list(order), input_id=x.id, output_id=out.id, flags=0))
        return out

    def slice(self, x: Value, axis: int, start: int, size: int) -> Value:
        """``size`` entries from ``start`` along one axis."""
        sizes = [size if i == axis else n for i, n in enumerate(x.shape)]
        out = self._define(sizes)
        offsets = [start if i == axis else 0 for i in range(len(sizes))]
        self._node(
            schema.XNNStaticSlice(num_dims=len(sizes), offsets=offsets, sizes=sizes, input_id=x.id, output_id=out.id, flags=0)
        )
        return out

    def concatenate(self, parts: Sequence[Value], axis: int) -> Value:
        """Two to five tensors along one axis."""
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        out = self._define(shape)
        ids = [part.id for part in parts] + [XNN_INVALID_VALUE_ID] * (5 - len(parts))
        kind = getattr(schema, f"XNNConcatenate{len(parts)}")
        self._node(
            kind(
                axis=axis, input1_id=ids[0], input2_id=ids[1], input3_id=ids[2], input4_id=ids[3], input5_id=ids[4],
                output_id=out.id, flags=0,
            )
        )  # fmt: skip
        return out

    def pad(self, x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Value:
        """Constant padding."""
        out = self._define([n + a + b for n, a, b in zip(x.shape, before, after, strict=True)])
        self._node(schema.XNNStaticConstantPad(list(before), list(after), value, x.id, out.id, 0))
        return out

    # Quantization

    def quantize_dynamic(self, x: Value, nonbatch: int) -> Value:
        """int8 with a scale and zero point found at run time from the range of each group of the last ``nonbatch`` axes."""
        out = self._define(x.shape, DataType.xnn_datatype_qdint8, schema.PerTokenDynamicQuant(num_nonbatch_dims=nonbatch))
        self._node(schema.XNNConvert(input_id=x.id, output_id=out.id, flags=0))
        return out

    def quantize_static(self, x: Value, scale: float, zero: int = 0) -> Value:
        """int8 with a constant scale and zero point."""
        out = self._define(x.shape, DataType.xnn_datatype_qint8, schema.PerTensorQuant(scale=scale, zero_point=zero))
        self._node(schema.XNNConvert(input_id=x.id, output_id=out.id, flags=0))
        return out

    def dequantize(self, x: Value) -> Value:
        """Back to fp32."""
        return self._unary(schema.XNNConvert, x)

    # Layers

    def batch_matmul(self, a: Value, b: Value, transpose_b: bool = False) -> Value:
        """[..., M, K] x [..., K, N], or [..., N, K] with ``transpose_b``."""
        columns = b.shape[-2] if transpose_b else b.shape[-1]
        out = self._define((*a.shape[:-1], columns))
        self._node(
            schema.XNNBatchMatrixMultiply(
                input1_id=a.id, input2_id=b.id, output_id=out.id, flags=XNN_FLAG_TRANSPOSE_B if transpose_b else 0
            )
        )
        return out

    def _layer_constants(
        self, x: Value, weights: Weights | Array32, bias: Array32 | None, out_scale: float | None
    ) -> tuple[Value, int, tuple[Any, Any]]:
        """Filter value, bias id and (datatype, quantization) of the output."""
        if not isinstance(weights, Weights):
            return self._packed_constant(weights), self._bias(bias), (DataType.xnn_datatype_fp32, None)
        kernel = self._weights(weights)
        if out_scale is None:
            return kernel, self._bias(bias), (DataType.xnn_datatype_fp32, None)
        if bias is not None:
            raise ValueError("a static layer takes no bias: it is added in float behind it")
        return kernel, XNN_INVALID_VALUE_ID, (DataType.xnn_datatype_qint8, schema.PerTensorQuant(out_scale, 0))

    def fully_connected(
        self, x: Value, weights: Weights | Array32, bias: Array32 | None, label: str, out_scale: float | None = None
    ) -> Value:
        """x [..., I] times weights [O, I]. With ``out_scale`` the output is int8 of that scale."""
        kernel, bias_id, (datatype, quantization) = self._layer_constants(x, weights, bias, out_scale)
        out = self._define((*x.shape[:-1], kernel.shape[0]), datatype, quantization)
        node = schema.XNNFullyConnected(input1_id=x.id, filter_id=kernel.id, bias_id=bias_id, output_id=out.id, flags=0)
        self._node(node, label)
        return out

    def matrix(self, x: Value, matrix: Array32, bias: Array32 | None = None) -> Value:
        """x [..., I] times a constant float matrix [O, I]: arithmetic of the graph, not a layer of the network."""
        kernel = self._packed_constant(matrix)
        out = self._define((*x.shape[:-1], matrix.shape[0]))
        node = schema.XNNFullyConnected(
            input1_id=x.id, filter_id=kernel.id, bias_id=self._bias(bias), output_id=out.id, flags=0
        )
        self._node(node)
        return out

    def convolution(
        self, x: Value, weights: Weights | Array32, bias: Array32 | None, label: str,
        stride: int = 1, padding: tuple[int, int] = (0, 0), out_scale: float | None = None,
    ) -> Value:  # fmt: skip
        """x [N, H, W, I], weights [O, kh, kw, I]; ``padding`` is (before, after) on both axes. ``out_scale`` as above."""
        kernel, bias_id, (datatype, quantization) = self._layer_constants(x, weights, bias, out_scale)
        outputs, kh, kw, inputs = kernel.shape
        n, h, w, _ = x.shape
        height, width = ((size + sum(padding) - k) // stride + 1 for size, k in ((h, kh), (w, kw)))
        out = self._define((n, height, width, outputs), datatype, quantization)
        self._node(
            schema.XNNConv2d(
                padding_top=padding[0], padding_right=padding[1], padding_bottom=padding[1], padding_left=padding[0],
                kernel_height=kh, kernel_width=kw, subsampling_height=stride, subsampling_width=stride,
                dilation_height=1, dilation_width=1, group_input_channels=inputs, group_output_channels=outputs, groups=1,
                adjustment_height=0, adjustment_width=0,
                input1_id=x.id, filter_id=kernel.id, bias_id=bias_id, output_id=out.id, flags=0,
            ),
            label,
        )  # fmt: skip
        return out

    # Serialization

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the inputs in order, without the constants."""
        return [value.shape for value in self._inputs]

    @property
    def constants(self) -> list[Array32]:
        """What the further inputs, behind these, are always given."""
        return [array for _, array in self._constants.values()]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs in order."""
        return [value.shape for value in self._outputs]

    def serialize(self) -> tuple[bytes, Any]:
        """The bytes that ExecuTorch hands to XNNPACK, and the named constants (``NamedDataStoreOutput``)."""
        inputs = [*self._inputs, *(value for value, _ in self._constants.values())]
        for index, (value, flag) in enumerate(
            [(v, XNN_VALUE_FLAG_EXTERNAL_INPUT) for v in inputs] + [(v, XNN_VALUE_FLAG_EXTERNAL_OUTPUT) for v in self._outputs]
        ):
            held = self._values[value.id].xvalue_union
            tensor = getattr(held, "tensor_value", held)
            tensor.external_id, tensor.flags = index, flag
        graph = schema.XNNGraph(
            version="0",
            xnodes=self._nodes,
            xvalues=self._values,
            num_externs=len(inputs) + len(self._outputs),
            input_ids=[value.id for value in inputs],
            output_ids=[value.id for value in self._outputs],
            constant_data=self._data,
        )
        return bytes(serialize_xnnpack_binary(graph, bytearray())), self._store.get_named_data_store_output()
