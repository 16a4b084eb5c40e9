"""The U-Net's layers as they are exported: weights are stand-ins without memory whose constants are replaced later."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec, Operators, StepRow
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.targets.coreml.options import CoreMLOptions
from s2p_runtime.errors import S2PError

FLOAT16_MAX = 65504.0
ACTIVATION_SHIFT = 7
"""Activations rest as q * 2^-7 in [-1, 1), in (-2, 2) with zero points: small enough that a sum over thousands of inputs stays
inside float16."""
_FLOAT_INPUT_BOUND = 2047.0
"""Largest input magnitude that a layer with float activations must stand when the checkpoint does not know the real one."""


def weight_shift(layer: QuantizedLayer, options: CoreMLOptions) -> int:
    """k of a per-tensor layer, whose table entries are ``q * 2^-k``.

    3 for up to 4 bits and 7 above, so that entries lie in [-1, 1). With float activations k grows until the layer's largest
    possible sum fits: ``max_c sum |q_c| * 2^-k * 2047 <= 65504``.
    """
    shift = 3 if layer.weight_bits <= 4 else 7
    if options.quantizes_activations and layer.activation_bits is not None:
        return shift
    while _largest_sum(layer.integers) * 2.0**-shift * _FLOAT_INPUT_BOUND > FLOAT16_MAX:
        shift += 1
    return shift


def channel_sums(integers: np.ndarray) -> np.ndarray:
    """``sum |q|`` of each output channel: int8 [C_out, ...] -> int64 [C_out]."""
    # The magnitude of -128 is right as an unsigned byte.
    return np.abs(integers.reshape(integers.shape[0], -1)).view(np.uint8).sum(axis=1, dtype=np.int64)


def _largest_sum(integers: np.ndarray) -> float:
    return float(channel_sums(integers).max())


def check_float16_range(layer: QuantizedLayer, options: CoreMLOptions) -> None:
    """Bound the layer's sum ``sum |w| * max |x|`` in float16.

    Raises:
        S2PError: the bound is above 65504, or a scale is not representable; the message names the layer.
    """
    name = layer.spec.name
    rounds = options.quantizes_activations and layer.activation_bits is not None
    if options.per_channel:
        largest = float((channel_sums(layer.integers) * layer.scale.astype(np.float64)).max())
    else:
        largest = _largest_sum(layer.integers) * 2.0 ** -weight_shift(layer, options)
    if rounds:
        largest *= max(map(abs, layer.activation_range)) * 2.0**-ACTIVATION_SHIFT
    if rounds and largest > FLOAT16_MAX:
        raise S2PError(f"layer {name} can overflow float16 (sums up to {largest:.3g})", "pass `precision=fp32`", "precision")
    if not options.per_channel:
        scaled = layer.scale.astype(np.float64) * 2.0 ** weight_shift(layer, options)
        if scaled.max() > FLOAT16_MAX:
            raise S2PError(f"layer {name} has a weight scale over the float16 range", "pass `precision=fp32`", "precision")
    if rounds and layer.activation_scale is not None:
        scales = layer.activation_scale.astype(np.float64)
        if scales.max() * 2.0**ACTIVATION_SHIFT > FLOAT16_MAX or (2.0**-ACTIVATION_SHIFT / scales).max() > FLOAT16_MAX:
            raise S2PError(
                f"layer {name} has an activation scale outside the float16 range", "pass `precision=fp32`", "precision"
            )


class CoreMLLayer(nn.Module):
    """One quantized layer in the form that survives conversion.

    With int8 activations: ``x * inverse[step]`` -> quantize at the constant scale 2^-7 -> dequantize -> layer without bias ->
    one multiplication by every real scale -> add bias.
    """

    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: QuantizedLayer, options: CoreMLOptions, place: int) -> None:
        """
        Args:
            place: of the layer among all, from 0.
        """
        super().__init__()
        self.spec, self.options = layer.spec, options
        self.bits = layer.activation_bits if options.quantizes_activations else None
        self.zero, self.range = layer.activation_zero, (0, 0) if self.bits is None else layer.activation_range
        channel = torch.from_numpy(layer.scale.astype(np.float32))
        scale = None if options.per_channel else channel * 2.0 ** weight_shift(layer, options)
        # One number in the shape of the weight, another for each layer: equal constants would become one.
        self.weight = nn.Parameter(torch.tensor(1.0 + place).expand(layer.spec.weight_shape), requires_grad=False)
        # Constants rest in their broadcast shape and step values broadcast as [1, 1]: no reshapes at run time.
        bias = None if layer.bias is None else torch.from_numpy(layer.bias)
        self.register_buffer("scale", None if scale is None else layer.spec.per_channel(scale))
        self.register_buffer("bias", None if bias is None else layer.spec.per_channel(bias))

    def _round(self, x: Tensor) -> Tensor:
        """Round x (in units of 2^-7) to the grid."""
        assert self.bits is not None
        low, high = self.range
        step = 2.0**-ACTIVATION_SHIFT
        if not self.options.has_quantize_operator:
            return torch.clamp(torch.round(x * 2.0**ACTIVATION_SHIFT), low, high) * step
        if self.bits < 8:
            x = torch.clamp(x, low * step, high * step)
        quantized = torch.ops.quantized_decomposed.quantize_per_tensor(x, step, self.zero, -128, 127, torch.int8)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(quantized, step, self.zero, -128, 127, torch.int8)

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        name = self.spec.name
        factor = self.scale
        if self.bits is not None:
            x = self._round(x * row[f"{name}.inverse"])
            step_scale = row[f"{name}.scale"]
            factor = step_scale if factor is None else step_scale * factor
        y = self.spec.apply(x, self.weight)
        if factor is not None:
            y = y * factor
        return y if self.bias is None else y + self.bias


class CoreMLOperators(Operators):
    """Quantized layers of a checkpoint, everything else in plain torch."""

    def __init__(self, layers: Mapping[str, QuantizedLayer], options: CoreMLOptions) -> None:
        self.layers, self.options = layers, options
        self._places = {name: place for place, name in enumerate(layers)}

    def layer(self, spec: LayerSpec) -> nn.Module:
        if spec.name in self.layers:
            return CoreMLLayer(self.layers[spec.name], self.options, self._places[spec.name])
        return FloatLayer(spec)
