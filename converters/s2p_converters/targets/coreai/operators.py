"""The U-Net's operators as Core AI operations, in two forms: tokens last for the GPU, channels first for the Neural Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import GraphOperators, LayerSpec
from s2p_converters.core.graph.channels_first import ChannelsFirst
from s2p_converters.targets.coreai.builder import AXIS, Builder, Value, ca
from s2p_converters.targets.coreai.options import CoreAIOptions
from s2p_converters.targets.coreai.symbols import Symbol, padded
from s2p_converters.targets.coreai.weights import EmittedWeight

_SCALAR = np.zeros(0, np.int32)


class _Layer(nn.Module):
    """A layer that writes itself: the sum over the weights, then what stands behind it."""

    def __init__(self, spec: LayerSpec, bias: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.spec, self.bias_values = spec, bias

    def _sum(self, x: Symbol, weight: Value) -> Symbol:
        if self.spec.kind == "linear":
            return x.with_value(ca.broadcasting_batch_matmul(x.value, ca.transpose(weight, np.array([1, 0], np.uint32))))
        p = self.spec.padding
        x = padded(x, (p, p, p, p)) if p else x
        stride = np.full(2, self.spec.stride, np.uint32)
        return x.with_value(ca.conv2d(x.value, weight, stride, np.ones(2, np.uint32), np.array(1, np.uint32)))

    def _behind(self, y: Symbol, name: str, values: NDArray[Any]) -> Symbol:
        """A number for each channel, so that it broadcasts over the layer's output."""
        shape = (1, 1, -1) if self.spec.kind == "linear" else (1, -1, 1, 1)
        return y.with_value(y.builder.floats(f"{self.spec.name}.{name}", values.reshape(shape)))

    def _shifted(self, y: Symbol) -> Symbol:
        return y if self.bias_values is None else y + self._behind(y, "bias", self.bias_values)


class FloatSymbolLayer(_Layer):
    """A layer in float."""

    def __init__(self, spec: LayerSpec, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        super().__init__(spec, bias)
        self.weight_values = weight.reshape(spec.weight_shape)

    def forward(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of ``x``."""
        weight = x.builder.floats(f"{self.spec.name}.weight", self.weight_values)
        return self._shifted(self._sum(x, weight))


class IntegerSymbolLayer(_Layer):
    """A quantized layer: round x with the step's scale, sum over integers, multiply by the channels' scales, add the bias."""

    def __init__(self, weight: EmittedWeight, operators: CoreAIOperators) -> None:
        super().__init__(weight.layer.spec, weight.layer.bias)
        self.weight_form, self.operators = weight, operators

    def forward(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of ``x``; ``row`` holds ``<layer>.scale`` [1, 1] where its input is rounded."""
        rounded = self.operators.rounded(x, self.weight_form, row)
        y = self._sum(rounded, x.builder.weight(self.weight_form))
        return self._shifted(y * self._behind(y, "weight_scale", self.weight_form.factor))


class CoreAIOperators(GraphOperators[Symbol]):
    """Writes operators into a graph; tokens lie as [B, N, C]."""

    def __init__(
        self,
        builder: Builder,
        weights: Mapping[str, EmittedWeight],
        floats: Mapping[str, NDArray[np.float32]],
        options: CoreAIOptions,
    ) -> None:
        """
        Args:
            weights: of quantized layers, in the shape that the form wants.
            floats: every other parameter by its diffusers name.
        """
        self.builder, self.weights, self.floats, self.options = builder, weights, floats, options
        self._rounded: dict[tuple[int, bytes, int, int], tuple[Symbol, Symbol]] = {}

    def constant(self, value: float) -> float:
        """As the program stores it."""
        return float(self.builder.dtype(value))

    def layer(self, spec: LayerSpec) -> nn.Module:
        """An integer layer where the checkpoint has integers, else a float layer."""
        if spec.name in self.weights:
            return IntegerSymbolLayer(self.weights[spec.name], self)
        return FloatSymbolLayer(spec, self.floats[f"{spec.name}.weight"], self.floats.get(f"{spec.name}.bias"))

    def begin(self) -> None:
        """Forget the values of another graph."""
        self._rounded.clear()

    def rounded(self, x: Symbol, weight: EmittedWeight, row: Mapping[str, Symbol]) -> Symbol:
        """A layer's input on its grid at this step, ``s (clamp(round(x / s) + z) - z)``; layers that read the same tensor
        with the same scales share it."""
        layer = weight.layer
        if not self.options.quantizes_activations or layer.activation_scale is None or layer.activation_bits is None:
            return x
        key = (id(x), layer.activation_scale.tobytes(), layer.activation_zero, layer.activation_bits)
        if key not in self._rounded:
            column = row[f"{layer.spec.name}.scale"]
            scale = ca.reshape(column.value, _SCALAR)
            # The second offset is the real number that the first stands for.
            grid = (scale, np.array(layer.activation_zero, np.int8), np.array(0, self.builder.dtype), AXIS)
            y = ca.dequantize(ca.quantize(x.value, *grid), *grid)
            if layer.activation_bits < 8:
                low, high = (ca.broadcasting_mul(scale, np.array(end, self.builder.dtype)) for end in layer.activation_range)
                y = ca.broadcasting_minimum(ca.broadcasting_maximum(y, low), high)
            self._rounded[key] = (x, x.with_value(y))
        return self._rounded[key][1]

    # Norms

    def _parameters(self, x: Symbol, norm: nn.Module, shape: tuple[int, ...]) -> tuple[Value, Value]:
        name: str = norm.s2p_name  # type: ignore[assignment]
        gain, shift = (getattr(norm, part).detach().numpy().reshape(shape) for part in ("weight", "bias"))
        return x.builder.floats(f"{name}.weight", gain), x.builder.floats(f"{name}.bias", shift)

    def group_norm(self, x: Symbol, norm: nn.GroupNorm) -> Symbol:
        """GroupNorm of x [B, C, H, W]: a composite of Apple's, with statistics in float32."""
        batch, channels, height, width = x.shape
        groups, eps, dtype = norm.num_groups, self.constant(norm.eps), self.builder.dtype

        def body(values: Value, weight: Value, bias: Value) -> Value:
            grouped = ca.reshape(values, np.array([batch, groups, channels // groups, height * width], np.int32))
            normed = ca.reshape(_normalized(grouped, (2, 3), eps, dtype), np.array(x.shape, np.int32))
            column = np.array([channels, 1, 1], np.int32)
            scaled = ca.broadcasting_mul(normed, ca.reshape(weight, column))
            return ca.broadcasting_add(scaled, ca.reshape(bias, column))

        attributes = {"num_groups": groups, "num_channels": channels, "eps": eps}
        operands = (x.value, *self._parameters(x, norm, (channels,)))
        return x.with_value(self.builder.composite("group_norm", ("input", "weight", "bias"), attributes, body, operands))

    def layer_norm(self, x: Symbol, norm: nn.LayerNorm) -> Symbol:
        """LayerNorm of tokens [B, N, C]: a composite of Apple's."""
        eps, dtype = self.constant(norm.eps), self.builder.dtype

        def body(values: Value, gamma: Value, beta: Value) -> Value:
            return ca.broadcasting_add(ca.broadcasting_mul(_normalized(values, (2,), eps, dtype), gamma), beta)

        operands = (x.value, *self._parameters(x, norm, (x.shape[2],)))
        attributes = {"eps": eps, "axes": [2]}
        return x.with_value(self.builder.composite("layer_norm", ("input", "gamma", "beta"), attributes, body, operands))

    # The rest

    def attention(self, q: Symbol, k: Symbol, v: Symbol, heads: int) -> Symbol:
        """q [B, N, C], k and v [B, M, C] -> [B, N, C]: a composite of Apple's over [B, heads, N, C / heads]."""
        scale = self.constant((q.shape[2] // heads) ** -0.5)
        dtype = self.builder.dtype
        operands = [t.unflatten(2, (heads, t.shape[2] // heads)).transpose(1, 2).value for t in (q, k, v)]

        def body(query: Value, key: Value, value: Value) -> Value:
            turned = ca.transpose(key, np.array([0, 1, 3, 2], np.uint32))
            scores = ca.broadcasting_batch_matmul(ca.broadcasting_mul(query, np.array(scale, dtype)), turned)
            return ca.broadcasting_batch_matmul(ca.softmax(scores, np.array(-1, np.int32)), value)

        attributes = {"is_causal": False, "window_size": 0, "scale": scale}
        mixed = self.builder.composite("scaled_dot_product_attention", ("query", "key", "value"), attributes, body, operands)
        return q.with_value(mixed).transpose(1, 2).flatten(2)

    def silu(self, x: Symbol) -> Symbol:
        """x * sigmoid(x)."""
        return x.with_value(ca.silu(x.value))

    def gelu(self, x: Symbol) -> Symbol:
        """Exact GELU."""
        return x.with_value(ca.gelu(x.value))

    def upsample(self, x: Symbol) -> Symbol:
        """Nearest-neighbour upsampling by two. Pixels are repeated: Apple's own exporter avoids ``interpolate``, which its GPU
        compiler leaves to the CPU (apple/coreai-models, ``diffusion/components.py``)."""
        batch, channels, height, width = x.shape
        columns = repeated(x.reshape(batch, channels, height * width, 1), 3).reshape(batch, channels, height, 2 * width)
        rows = repeated(columns.reshape(batch, channels * height, 1, 2 * width), 2)
        return rows.reshape(batch, channels, 2 * height, 2 * width)


def repeated(x: Symbol, axis: int) -> Symbol:
    """Twice along an axis of length 1."""
    return x.with_value(ca.concat(np.array(axis, np.int32), [x.value, x.value]))


def _normalized(values: Value, axes: tuple[int, ...], eps: float, dtype: type[np.floating[Any]]) -> Value:
    """``(x - mean) / sqrt(variance + eps)`` over axes, computed in float32."""
    over = np.array(axes, np.int32)
    wide = values if dtype is np.float32 else ca.cast(values, np.float32)
    centred = ca.broadcasting_sub(wide, ca.reduce_mean(wide, over))
    variance = ca.reduce_mean(ca.broadcasting_mul(centred, centred), over)
    normed = ca.broadcasting_mul(centred, ca.rsqrt(ca.broadcasting_add(variance, np.array(eps, np.float32))))
    return normed if dtype is np.float32 else ca.cast(normed, dtype)


class ChannelsFirstOperators(ChannelsFirst, CoreAIOperators):
    """The same for the Neural Engine: tokens lie as [B, C, 1, N]."""

    def layer_norm(self, x: Symbol, norm: nn.LayerNorm) -> Symbol:
        """LayerNorm of tokens [B, C, 1, N] over axis 1, from the parts that Apple's own form for this layout is made of
        (apple/coreai-models, ``primitives/ios/layer_norm.py``)."""
        axis, eps = np.array([1], np.int32), np.array(self.constant(norm.eps), self.builder.dtype)
        centred = ca.broadcasting_sub(x.value, ca.reduce_mean(x.value, axis))
        variance = ca.reduce_mean(ca.broadcasting_mul(centred, centred), axis)
        normed = ca.broadcasting_mul(centred, ca.rsqrt(ca.broadcasting_add(variance, eps)))
        gain, shift = self._parameters(x, norm, (1, x.shape[1], 1, 1))
        return x.with_value(ca.broadcasting_add(ca.broadcasting_mul(normed, gain), shift))

    def scaled(self, q: Symbol, keys: Symbol, factor: float) -> tuple[Symbol, Symbol]:
        """The keys: behind a layer without a bias Apple's library would multiply the factor into the channels' scales, which then are
        rounded."""
        return q, keys * factor

    def attend(self, query: Symbol, keys: Symbol, values: Symbol) -> Symbol:
        """See :class:`ChannelsFirst`. The axes that are exchanged have length 1 beside them: nothing moves in memory."""
        scores = ca.broadcasting_batch_matmul(keys.transpose(1, 2).value, query.transpose(1, 2).value)
        weights = ca.softmax(query.with_value(scores).transpose(1, 2).value, np.array(1, np.int32))
        rows = query.with_value(weights).transpose(1, 2)
        mixed = ca.broadcasting_batch_matmul(values.transpose(1, 2).value, rows.value)
        return query.with_value(mixed).transpose(1, 2)
