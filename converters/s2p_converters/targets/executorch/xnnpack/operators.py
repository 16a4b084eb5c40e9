"""The U-Net's operators as XNNPACK nodes, with integer layers in three activation schemes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import GraphOperators, LayerSpec
from s2p_converters.targets.executorch.xnnpack.scheme import Scheme
from s2p_converters.targets.executorch.xnnpack.subgraph import Array32, Subgraph, Value, Weights
from s2p_converters.targets.executorch.xnnpack.symbols import Symbol, upsample_twice
from s2p_runtime.errors import S2PError

SILU_MINIMUM = -0.27846454276107380
"""Minimum of x * sigmoid(x), at x = -1.2784645: where 1 + x (1 - sigmoid(x)) = 0."""

FOUR_BITS = 4
_BEYOND = 1e30
"""Larger than any activation, and far from float32's largest number."""


def activation_columns(layer: QuantizedLayer, scheme: Scheme) -> dict[str, NDArray[np.float32]]:
    """Step table columns [T, 1] that a layer of this scheme looks up, by the suffix of their names."""
    if layer.activation_scale is None or layer.activation_bits is None or scheme == "dynamic":
        return {}
    scale = layer.activation_scale.astype(np.float64)[:, None]
    if scheme == "static":
        return {"inverse": (1 / scale).astype(np.float32), "scale": scale.astype(np.float32)}
    low, high = layer.activation_range
    return {"low": (low * scale).astype(np.float32), "high": (high * scale).astype(np.float32)}


def uses_four_bits(layer: QuantizedLayer) -> bool:
    """Whether a layer's weights rest as int4 at run time: XNNPACK has such a kernel for linear layers only."""
    return layer.spec.kind == "linear" and layer.weight_bits <= FOUR_BITS


def xnnpack_weight(spec: LayerSpec, weight: NDArray[Any]) -> NDArray[Any]:
    """Checkpoint order [O, I, kh, kw] -> [O, kh, kw, I]; linear weights stay [O, I]."""
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)) if spec.kind == "conv" else weight


class FloatSymbolLayer(nn.Module):
    """A layer in float; ``weight`` float32 of the spec's shape."""

    def __init__(self, spec: LayerSpec, weight: Array32, bias: Array32 | None) -> None:
        super().__init__()
        self.spec, self.weights, self.bias_values = spec, xnnpack_weight(spec, weight), bias

    def forward(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of ``x``."""
        graph = x.graph
        if self.spec.kind == "linear":
            out = graph.fully_connected(x.settle().value, self.weights, self.bias_values, self.spec.name)
            return Symbol(graph, out, False)
        value, padding = _conv_input(x, self.spec)
        out = graph.convolution(value, self.weights, self.bias_values, self.spec.name, self.spec.stride, padding)
        return Symbol(graph, out, True)


def _conv_input(x: Symbol, spec: LayerSpec) -> tuple[Value, tuple[int, int]]:
    """The value to convolve and its padding; zero columns that are pending become padding."""
    bare = Symbol(x.graph, x.value, True, x.shift, 0, x.upsampled).settle()
    return bare.value, (spec.padding, spec.padding + x.border)


class IntegerSymbolLayer(nn.Module):
    """A layer on an integer kernel: int8 activations, int8 or (linear layers of at most four bits) int4 weights."""

    def __init__(self, layer: QuantizedLayer, operators: XnnpackOperators) -> None:
        super().__init__()
        self.layer, self.operators = layer, operators

    def forward(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of ``x``; ``row`` holds the columns of :func:`activation_columns`."""
        layer, spec = self.layer, self.layer.spec
        if x.graph is not self.operators.graph:
            raise ValueError("a layer belongs to the graph of its operators")
        padding = (0, 0)
        if spec.kind == "conv":
            padding = (spec.padding, spec.padding + x.border)
            x = Symbol(x.graph, x.value, True, x.shift, 0, x.upsampled)
        quantized = self.operators.quantize(x, layer, row)
        integers, scale, bias = xnnpack_weight(spec, layer.integers), layer.scale.astype(np.float32), layer.bias
        if spec.name.endswith(".ff.net.0.proj"):
            half = spec.out_channels // 2
            outs = tuple(
                self._emit(quantized, integers[part], scale[part], None if bias is None else bias[part], padding, row)
                for part in (slice(0, half), slice(half, None))
            )
            return Symbol(x.graph, outs[0], False, halves=(outs[0], outs[1]))
        return Symbol(x.graph, self._emit(quantized, integers, scale, bias, padding, row), spec.kind == "conv")

    def _emit(
        self, x: Value, integers: NDArray[np.int8], scale: Array32, bias: Array32 | None, padding: tuple[int, int],
        row: Mapping[str, Symbol],
    ) -> Value:  # fmt: skip
        spec, graph, scheme = self.layer.spec, self.operators.graph, self.operators.scheme
        extra = x.shape[-1] - integers.shape[-1]
        integers = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, extra)])
        bits = FOUR_BITS if uses_four_bits(self.layer) else 8
        weights = Weights(integers, scale, bits)
        out_scale = self.operators.output_scales[spec.name] if scheme == "static" else None
        inner = None if scheme == "static" else bias
        if spec.kind == "linear":
            out = graph.fully_connected(x, weights, inner, spec.name, out_scale)
        else:
            out = graph.convolution(x, weights, inner, spec.name, spec.stride, padding, out_scale)
        if scheme == "static":
            factor = _scalar(graph, row[f"{spec.name}.scale"], len(out.shape))
            out = graph.multiply(graph.dequantize(out), factor)
            out = out if bias is None else graph.add(out, graph.constant(bias))
        return out


def _scalar(graph: Subgraph, column: Symbol, axes: int) -> Value:
    return graph.reshape(column.value, (1,) * axes)


class XnnpackOperators(GraphOperators[Symbol]):
    """Writes operators into a subgraph; tensors are :class:`Symbol` throughout."""

    def __init__(
        self,
        graph: Subgraph,
        layers: Mapping[str, QuantizedLayer],
        floats: Mapping[str, NDArray[np.float32]],
        scheme: Scheme,
        output_scales: Mapping[str, float] | None = None,
    ) -> None:
        """
        Args:
            layers: quantized layers by name.
            floats: every other parameter by its diffusers name.
            output_scales: scheme ``static``: scale of a layer's output divided by the input scale of the step.
        """
        self.graph, self.layers, self.floats, self.scheme = graph, layers, floats, scheme
        self.output_scales = dict(output_scales or {})
        self._quantized: dict[tuple[int, bool, bytes, int, int], Value] = {}
        self._above_silu: set[int] = set()

    def layer(self, spec: LayerSpec) -> nn.Module:
        """An integer layer where the checkpoint has integers with quantized activations, else a float layer."""
        layer = self.layers.get(spec.name)
        if layer is None:
            return FloatSymbolLayer(spec, self.floats[f"{spec.name}.weight"], self.floats.get(f"{spec.name}.bias"))
        if layer.activation_bits is None:
            scale = layer.scale.astype(np.float32).reshape(-1, *([1] * (layer.integers.ndim - 1)))
            return FloatSymbolLayer(spec, scale * layer.integers.astype(np.float32), layer.bias)
        if layer.activation_bits != 8 and self.scheme != "pinned":
            raise S2PError(
                f"{layer.activation_bits}-bit activations need the pinned scheme",
                "convert without `activations`",
                "activations",
            )
        return IntegerSymbolLayer(layer, self)

    # Quantization of a layer's input

    def quantize(self, x: Symbol, layer: QuantizedLayer, row: Mapping[str, Symbol]) -> Value:
        """int8 input of a layer. Layers that read the same tensor with the same scales share it."""
        assert layer.activation_scale is not None
        shift = 0 if x.shift is None else x.shift.id
        key = (x.value.id, x.upsampled, layer.activation_scale.tobytes(), layer.activation_zero, shift)
        if key not in self._quantized:
            self._quantized[key] = self._quantize(x, layer, row)
        return self._quantized[key]

    def _quantize(self, x: Symbol, layer: QuantizedLayer, row: Mapping[str, Symbol]) -> Value:
        graph, name = self.graph, layer.spec.name
        nonbatch = 3 if layer.spec.kind == "conv" else 1
        upsampled = x.upsampled
        value = Symbol(graph, x.value, x.channels_last, x.shift, halves=x.halves).settle().value
        axes = len(value.shape)
        if self.scheme == "dynamic":
            value = upsample_twice(graph, value) if upsampled else value
            return graph.quantize_dynamic(value, nonbatch)
        if self.scheme == "static":
            value = graph.multiply(value, _scalar(graph, row[f"{name}.inverse"], axes))
            value = upsample_twice(graph, value) if upsampled else value
            return graph.quantize_static(value, 1.0, layer.activation_zero)
        low, high = row[f"{name}.low"].value, row[f"{name}.high"].value
        value = self._pinned_channels(value, layer, low, high)
        value = upsample_twice(graph, value) if upsampled else value
        return graph.quantize_dynamic(value, nonbatch)

    def _pinned_channels(self, value: Value, layer: QuantizedLayer, low: Value, high: Value) -> Value:
        """The value clamped to the layer's range, with the two ends of the int8 range as two more channels."""
        graph = self.graph
        axes, ends_shape = len(value.shape), (*value.shape[:-1], 1)
        assert layer.activation_scale is not None and layer.activation_bits is not None
        lowest, highest = layer.activation_range

        def end(of: int) -> Value:
            # From the farther end of the layer's own range, which is not 0: of a symmetric range the factor is a power of two, or
            # rounds the product once.
            own, steps = (low, lowest) if -lowest >= highest else (high, highest)
            return graph.multiply(own, graph.constant(np.full(ends_shape, of / steps, np.float32)))

        if layer.activation_bits != 8:
            # Other zero points, too, leave the range between these ends.
            clamped = graph.minimum(graph.maximum(value, low), high)
            return graph.concatenate([clamped, end(-128), end(127)], axes - 1)
        # Beyond the range on purpose: the clamp makes the ends of them.
        beyond = graph.constant(np.full(ends_shape, _BEYOND, np.float32))
        if value.id in self._above_silu and lowest * float(layer.activation_scale.min()) <= SILU_MINIMUM:
            ends = graph.multiply(low, graph.constant(np.ones(ends_shape, np.float32)))
            return graph.minimum(graph.concatenate([value, ends, beyond], axes - 1), high)
        below = graph.constant(np.full(ends_shape, -_BEYOND, np.float32))
        return graph.minimum(graph.maximum(graph.concatenate([value, below, beyond], axes - 1), low), high)

    # Norms

    def _parameters(self, norm: nn.Module) -> tuple[Array32, Array32]:
        return norm.weight.detach().numpy(), norm.bias.detach().numpy()  # type: ignore[operator]

    def group_norm(self, x: Symbol, norm: nn.GroupNorm) -> Symbol:
        """Mean and variance per image and group, from per-channel means; a pending shift costs nothing per element."""
        graph = self.graph
        shift, value = x.shift, Symbol(x.graph, x.value, True, None, x.border, x.upsampled).settle().value
        c = value.shape[-1]
        groups = norm.num_groups
        gamma, beta = self._parameters(norm)

        # Averaging over a group and spreading a group's number over its channels, as two small matrices.
        member = np.kron(np.eye(groups), np.ones((1, c // groups))).astype(np.float32)
        average, spread = member * np.float32(groups / c), np.ascontiguousarray(member.T)
        eps = np.full((groups,), norm.eps, np.float32)

        channel_mean = graph.mean(value)
        if shift is not None:
            channel_mean = graph.add(channel_mean, shift)
        centre = graph.matrix(graph.matrix(channel_mean, average), spread)
        if shift is not None:
            centre = graph.subtract(centre, shift)
        centred = graph.subtract(value, centre)
        variance = graph.matrix(graph.mean(graph.square(centred)), average, eps)
        inverse = graph.matrix(graph.reciprocal_square_root(variance), spread)
        out = graph.multiply(centred, graph.multiply(inverse, graph.constant(gamma.reshape(1, 1, 1, c))))
        return Symbol(graph, graph.add(out, graph.constant(beta.reshape(1, 1, 1, c))), True)

    def layer_norm(self, x: Symbol, norm: nn.LayerNorm) -> Symbol:
        """Mean and variance over the last axis of [B, N, C]."""
        graph, value = self.graph, x.settle().value
        c = value.shape[-1]
        gamma, beta = self._parameters(norm)
        average = np.full((1, c), 1 / c, np.float32)
        centred = graph.subtract(value, graph.matrix(value, average))
        variance = graph.matrix(graph.square(centred), average, np.full((1,), norm.eps, np.float32))
        out = graph.multiply(graph.multiply(centred, graph.reciprocal_square_root(variance)), graph.constant(gamma))
        return Symbol(graph, graph.add(out, graph.constant(beta)), False)

    # The rest

    def attention(self, q: Symbol, k: Symbol, v: Symbol, heads: int) -> Symbol:
        """Softmax(q k^T / sqrt(d)) v, heads side by side."""
        graph = self.graph
        width = q.shape[2] // heads
        scaled = graph.multiply(q.settle().value, graph.constant(np.full((1,), width**-0.5, np.float32)))

        def split(value: Value) -> Value:
            b, n, c = value.shape
            return graph.transpose(graph.reshape(value, (b, n, heads, c // heads)), (0, 2, 1, 3))

        scores = graph.batch_matmul(split(scaled), split(k.settle().value), transpose_b=True)
        mixed = graph.batch_matmul(graph.softmax(scores), split(v.settle().value))
        return Symbol(graph, graph.reshape(graph.transpose(mixed, (0, 2, 1, 3)), q.shape), False)

    def silu(self, x: Symbol) -> Symbol:
        """x * sigmoid(x)."""
        settled = x.settle()
        out = self.graph.multiply(settled.value, self.graph.sigmoid(settled.value))
        self._above_silu.add(out.id)
        return Symbol(self.graph, out, settled.channels_last)

    def gelu(self, x: Symbol) -> Symbol:
        """Exact GELU."""
        return Symbol(self.graph, self.graph.gelu(x.settle().value), x.channels_last)

    def upsample(self, x: Symbol) -> Symbol:
        """Nearest-neighbour upsampling by two, left pending."""
        settled = x.settle()
        return Symbol(self.graph, settled.value, True, upsampled=True)
