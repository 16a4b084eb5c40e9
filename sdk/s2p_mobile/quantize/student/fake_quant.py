"""Quantized layers that can be trained: rounding with straight-through gradients, scales with LSQ gradients.

LSQ: Esser et al., "Learned Step Size Quantization" (ICLR 2020). With ``r = x / s`` and ``q = clamp(round(r), low, high)``,
``d(s q)/dx`` is 1 inside the grid and 0 outside, and ``d(s q)/ds`` is ``q - r`` inside and ``q`` outside. Zero points stay.
Every rounding of the checkpoint (fp16 weight scales, snapped activation scales) is part of the forward pass, so that what is
trained is what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from s2p_converters.core.graph import LayerSpec, Operators, StepRow, StepTables
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.grid import snap_activation_scale

_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


class _Snap(Function):
    """A rounding of values whose gradient passes as if it were not there."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, snap: Callable[[Tensor], Tensor]) -> Tensor:
        return snap(value).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def _to_half(scale: Tensor) -> Tensor:
    return scale.half().clamp(min=_SMALLEST_SCALE)


class _QuantizeWeight(Function):
    """``scale * clamp(round(units * base / scale))`` with LSQ gradients; frozen weights keep the integer they are held at."""

    @staticmethod
    def forward(
        ctx: Any, units: Tensor, scale: Tensor, base: Tensor, low: int, high: int, frozen: Tensor | None, held: Tensor | None
    ) -> Tensor:
        ratio = units * (base / scale)
        integers = ratio.round().clamp_(low, high)
        if frozen is not None and held is not None:
            integers = torch.where(frozen, held.to(integers.dtype), integers)
        ctx.save_for_backward(ratio, integers, scale, base, frozen)
        ctx.low, ctx.high = low, high
        return integers * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        ratio, integers, scale, base, frozen = ctx.saved_tensors
        inside = (ratio >= ctx.low) & (ratio <= ctx.high)
        if frozen is not None:
            inside &= ~frozen
        through = grad * inside
        by_scale = (grad * integers - through * ratio).sum_to_size(scale.shape)
        return through * base, by_scale, None, None, None, None, None


class _QuantizeActivation(Function):
    """``scale * clamp(round(x * inverse))`` with LSQ gradients. ``inverse`` is the stored reciprocal of ``scale``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, inverse: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale, inverse)
        ctx.low, ctx.high = low, high
        return (x * inverse).round_().clamp_(low, high) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, scale, inverse = ctx.saved_tensors
        ratio = x * inverse
        integers = ratio.round().clamp_(ctx.low, ctx.high)
        through = grad * ((ratio >= ctx.low) & (ratio <= ctx.high))
        by_scale = (grad * integers - through * ratio).sum_to_size(scale.shape)
        return through, by_scale, None, None, None


class TrainedLayer(nn.Module):
    """A quantized layer in training.

    Attributes:
        weight: the learned weight in steps of the initial grid (``base``), float32 [C_out, ...], so that one learning rate
            suits layers of any magnitude.
        log_scale: logarithm of weight scale / initial scale, [C_out].
        base: initial scale, fp16-representable, [C_out].
        activation_zero: zero point of the input's grid.
        frozen, held: which weights are fixed (bool) and at which integers (int8); None when the recipe freezes nothing.
    """

    base: Tensor
    frozen: Tensor | None
    held: Tensor | None

    def __init__(
        self, spec: LayerSpec, weight_bits: int, activation_bits: int | None, freezes: bool, activation_zero: int = 0
    ) -> None:
        super().__init__()
        self.spec, self.weight_bits, self.activation_bits = spec, weight_bits, activation_bits
        self.activation_zero = activation_zero
        self.weight = nn.Parameter(torch.zeros(spec.weight_shape))
        self.log_scale = nn.Parameter(torch.zeros(spec.out_channels))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels)) if spec.bias else None
        self.register_buffer("base", torch.ones(spec.out_channels))
        self.register_buffer("frozen", torch.zeros(spec.weight_shape, dtype=torch.bool) if freezes else None)
        self.register_buffer("held", torch.zeros(spec.weight_shape, dtype=torch.int8) if freezes else None)

    @torch.no_grad()
    def start_from(self, layer: FloatLayer, scale: Tensor) -> None:
        """Take a float layer's weights and the initial scales [C_out]."""
        self.base.copy_(scale)
        self.weight.copy_(layer.weight / self._column(scale))
        if self.bias is not None and layer.bias is not None:
            self.bias.copy_(layer.bias)

    @property
    def scale(self) -> Tensor:
        """Present weight scales, fp16-representable, [C_out]."""
        return _Snap.apply(self.base * self.log_scale.exp(), _to_half)

    @torch.no_grad()
    def integers(self) -> Tensor:
        """Present integers, int8 [C_out, ...]: those of the forward pass."""
        low, high = integer_range(self.weight_bits)
        ratio = self.weight * (self._column(self.base) / self._column(self.scale))
        integers = ratio.round_().clamp_(low, high).to(torch.int8)
        if self.frozen is None or self.held is None:
            return integers
        return torch.where(self.frozen, self.held, integers)

    def _column(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *([1] * (self.weight.dim() - 1)))

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        low, high = integer_range(self.weight_bits)
        weight = _QuantizeWeight.apply(
            self.weight, self._column(self.scale), self._column(self.base), low, high, self.frozen, self.held
        )
        if self.activation_bits is not None:
            low, high = (end - self.activation_zero for end in integer_range(self.activation_bits))
            scale = self.spec.per_step(row[f"{self.spec.name}.scale"])
            inverse = self.spec.per_step(row[f"{self.spec.name}.inverse"])
            x = _QuantizeActivation.apply(x.to(scale.dtype), scale, inverse, low, high)
        return self.spec.apply(x, weight, self.bias)


class TrainedOperators(Operators):
    """Makes the layers of a student: quantized ones for the layers with bits, float ones for the rest."""

    def __init__(
        self,
        weight_bits: Mapping[str, int],
        activation_bits: int | None,
        freezes: bool,
        activation_zeros: Mapping[str, int] | None = None,
    ) -> None:
        self.weight_bits, self.activation_bits, self.freezes = weight_bits, activation_bits, freezes
        self.activation_zeros = activation_zeros or {}

    def layer(self, spec: LayerSpec) -> nn.Module:
        if spec.name in self.weight_bits:
            zero = self.activation_zeros.get(spec.name, 0)
            return TrainedLayer(spec, self.weight_bits[spec.name], self.activation_bits, self.freezes, zero)
        return FloatLayer(spec)


class TrainedTables(nn.Module):
    """Step rows of a student: time rows that begin as the FP model's, and activation scales.

    Attributes:
        time: the time rows; its matrix [T, all C] can be learned, what a prompt adds to them stays as it is.
        learns_time: whether the time rows are learned.
        log_scales: logarithm of scale over initial scale, [T, L], [1, L] with one for all calls; None with float activations.
        base: initial scales, float32 [T, L].
    """

    base: Tensor | None

    def __init__(self, time: StepTables, names: list[str], scales: Tensor | None, per_step: bool) -> None:
        """
        Args:
            time: ``<resnet>.time``, float32; becomes a part of these tables.
            names: the L quantized layers.
            scales: initial activation table [T, L], or None.
            per_step: learn a scale for every call.
        """
        super().__init__()
        self.names, self.time = names, time
        time.learn()
        self.learns_time = True
        self.register_buffer("base", scales)
        rows = 0 if scales is None else scales.shape[0] if per_step else 1
        self.log_scales = None if scales is None else nn.Parameter(torch.zeros(rows, scales.shape[1]))

    @property
    def scales(self) -> Tensor | None:
        """Present activation table, snapped, [T, L]."""
        if self.base is None or self.log_scales is None:
            return None
        return _Snap.apply(self.base * self.log_scales.exp(), snap_activation_scale)

    @property
    def time_rows(self) -> nn.Parameter:
        """All time rows side by side, [T, all C]."""
        assert isinstance(self.time.matrix, nn.Parameter)
        return self.time.matrix

    @property
    def time_tables(self) -> dict[str, Tensor]:
        """``<resnet>.time`` -> float32 [T, C]: what all prompts share."""
        return {name: part.detach().clone().contiguous() for name, part in self.time.columns.items()}

    def forward(self, step: Tensor, *condition: Tensor) -> dict[str, Tensor]:
        """As :meth:`StepTables.forward`, with the scales' columns."""
        row: dict[str, Tensor] = self.time(step, *condition)
        scales = self.scales
        if scales is not None:
            chosen = scales.index_select(0, step)
            # The checkpoint's reader divides in double and stores float32; the same number here.
            inverse = (2.0**-7 / chosen.detach().double()).float().to(chosen.dtype) * 2.0**7
            for name, scale, reciprocal in zip(self.names, chosen.split(1, dim=1), inverse.split(1, dim=1), strict=True):
                row[f"{name}.scale"], row[f"{name}.inverse"] = scale, reciprocal
        return row
