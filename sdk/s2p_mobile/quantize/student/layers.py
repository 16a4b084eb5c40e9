"""Quantized layers that can be trained: rounding with straight-through gradients, scales with LSQ gradients.

LSQ: Esser et al., "Learned Step Size Quantization" (ICLR 2020). With ``r = x / s`` and ``q = clamp(round(r), low, high)``,
``d(s q)/dx`` is 1 inside the grid and 0 outside, and ``d(s q)/ds`` is ``q - r`` inside and ``q`` outside. Zero points stay.
Every rounding of the checkpoint (fp16 weight scales, snapped activation scales) is part of the forward pass, so that what is
trained is what is written.

A layer keeps its input for the backward pass and nothing else of its own: rounded weights and inputs are made again there. At the
size of SD v1-4 rounded weights and their ratios alone would be 6.4 GiB.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.grad import conv2d_input, conv2d_weight

from s2p_converters.core.graph import LayerSpec, Operators, StepRow
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.student.snapping import Snap

_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


def _to_half(scale: Tensor) -> Tensor:
    return scale.half().clamp(min=_SMALLEST_SCALE)


def _power_of_two(scale: Tensor) -> Tensor:
    """The power of two below each scale, or one next to it."""
    return torch.exp2(torch.floor(torch.log2(scale)))


@dataclass(frozen=True)
class _Grids:
    """Integers of a layer's weights, and of its inputs; None: float inputs."""

    weight: tuple[int, int]
    activation: tuple[int, int] | None


class _QuantizedProduct(Function):
    """``bias + spec.apply(rounded x, rounded weight)`` with LSQ gradients.

    Products are made of integers times powers of two, which half precisions hold exactly, and get the rest of their scales
    afterwards; so the layer computes what integer arithmetic computes, up to the rounding of its sums.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, step: Tensor | None, inverse: Tensor | None,
        base: Tensor, held: Tensor | None, flips: Tensor | None, spec: LayerSpec, grids: _Grids,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            weight: in steps of ``base``, float; or integers, int8.
            scale, base: [C_out].
            step, inverse: scale of the input's grid and its stored reciprocal, [S, 1].
            held, flips: see :class:`TrainedLayer`.
        """
        ctx.compute = _precision(x)
        ctx.spec, ctx.grids = spec, grids
        ctx.save_for_backward(x, weight, scale, step, inverse, base, held, flips)
        ctx.has_bias = bias is not None
        parts = _Parts((x, weight, scale, step, inverse, base, held, flips), spec, grids, ctx.compute)
        with _as_written(x.device):
            product = spec.apply(parts.inputs(), parts.weights())
            product = product * parts.of_output()
            if bias is not None:
                product = product + spec.per_channel(bias.to(product.dtype))
        return product.to(ctx.compute)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        parts = _Parts(ctx.saved_tensors, ctx.spec, ctx.grids, ctx.compute)
        by_bias = _channel_sums(grad, ctx.spec) if ctx.has_bias else None
        by_x, by_step = parts.input_gradients(grad, ctx.needs_input_grad[0], ctx.needs_input_grad[4])
        by_weight, by_scale = parts.weight_gradients(grad, ctx.needs_input_grad[1], ctx.needs_input_grad[2])
        return by_x, by_weight, by_scale, by_bias, by_step, None, None, None, None, None, None


def _precision(x: Tensor) -> torch.dtype:
    """Of the products: autocast's, where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype


def _as_written(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class _Parts:
    """Rounded weights and inputs of a layer, made when they are asked for, and the gradients through them."""

    def __init__(self, saved: Any, spec: LayerSpec, grids: _Grids, compute: torch.dtype) -> None:
        self.x, self.weight, self.scale, self.step, self.inverse, self.base, self.held, self.flips = saved
        self.spec, self.grids, self.compute = spec, grids, compute
        self.scale_power = _power_of_two(self.scale)
        self.step_power = None if self.step is None else _power_of_two(self.step)

    # Weights

    def _ratio(self) -> Tensor:
        """Weights in present steps, not rounded."""
        ratio: Tensor = self.weight * _column(self.base / self.scale, self.weight)
        return ratio

    def _integers(self, ratio: Tensor | None) -> Tensor:
        if ratio is None:
            return self.weight.to(self.scale.dtype)
        return _held(ratio.round().clamp_(*self.grids.weight), self.held, self.flips)

    def _learned_ratio(self) -> Tensor | None:
        return None if self.weight.dtype == torch.int8 else self._ratio()

    def weights(self) -> Tensor:
        """Integers times powers of two, in the precision of the products."""
        return (self._integers(self._learned_ratio()) * _column(self.scale_power, self.weight)).to(self.compute)

    # Inputs

    def _rounded(self) -> tuple[Tensor, Tensor]:
        """Inputs in steps, not rounded and rounded; in the wider of both precisions."""
        ratio = self.x.to(torch.promote_types(self.x.dtype, self.inverse.dtype)) * self.spec.per_step(self.inverse)
        assert self.grids.activation is not None
        return ratio, ratio.round().clamp_(*self.grids.activation)

    def inputs(self) -> Tensor:
        """As :meth:`weights`; float inputs as they are."""
        if self.step_power is None:
            return self.x.to(self.compute)
        return (self._rounded()[1] * self.spec.per_step(self.step_power)).to(self.compute)

    def of_output(self) -> Tensor:
        """What the powers of two left over of both scales, for the layer's output."""
        return self._of_channels() * self._of_steps()

    def _of_channels(self) -> Tensor:
        return self.spec.per_channel(self.scale / self.scale_power)

    def _of_steps(self) -> Tensor | float:
        return 1.0 if self.step is None else self.spec.per_step(self.step / self.step_power)

    # Gradients

    def input_gradients(self, grad: Tensor, of_x: bool, of_step: bool) -> tuple[Tensor | None, Tensor | None]:
        """By the input, in its own precision, and by the steps of its grid."""
        if not (of_x or of_step):
            return None, None
        by_rounded = _input_gradient((grad * self._of_channels()).to(self.compute), self.weights(), self.x, self.spec)
        if self.step is None:
            return by_rounded.to(self.x.dtype), None
        ratio, integers = self._rounded()
        assert self.grids.activation is not None
        low, high = self.grids.activation
        by_rounded = by_rounded.to(ratio.dtype)
        through = by_rounded * ((ratio >= low) & (ratio <= high))
        by_step = None
        if of_step:
            terms = by_rounded.mul_(integers).sub_(through * ratio)
            by_step = terms.sum_to_size(self.spec.per_step(self.step).shape).reshape(self.step.shape)
        return through.to(self.x.dtype), by_step

    def weight_gradients(self, grad: Tensor, of_weight: bool, of_scale: bool) -> tuple[Tensor | None, Tensor | None]:
        """By the weights in steps of their base, and by their scales."""
        if not (of_weight or of_scale):
            return None, None
        by_rounded = _weight_gradient((grad * self._of_steps()).to(self.compute), self.inputs(), self.weight.shape, self.spec)
        by_rounded = by_rounded.to(self.scale.dtype)
        ratio = self._learned_ratio()
        integers = self._integers(ratio)
        if ratio is None:
            return None, (by_rounded * integers).flatten(1).sum(dim=1)
        low, high = self.grids.weight
        inside = (ratio >= low) & (ratio <= high)
        if self.flips is not None:
            inside &= self.flips >= 0
        by_scale = (by_rounded * integers).flatten(1).sum(dim=1)
        through = by_rounded.mul_(inside)
        by_scale -= (through * ratio).flatten(1).sum(dim=1)
        return through.mul_(_column(self.base, self.weight)), by_scale


def _held(integers: Tensor, held: Tensor | None, flips: Tensor | None) -> Tensor:
    if held is None or flips is None:
        return integers
    return torch.where(flips < 0, held.to(integers.dtype), integers)


def _column(values: Tensor, weight: Tensor) -> Tensor:
    """[C_out] so that it broadcasts against a weight."""
    return values.reshape(-1, *([1] * (weight.dim() - 1)))


def _channel_sums(grad: Tensor, spec: LayerSpec) -> Tensor:
    axes = tuple(range(grad.dim() - 1)) if spec.kind == "linear" else (0, 2, 3)
    return grad.sum(dim=axes, dtype=torch.promote_types(grad.dtype, torch.float32))


def _input_gradient(grad: Tensor, weight: Tensor, x: Tensor, spec: LayerSpec) -> Tensor:
    if spec.kind == "linear":
        return grad @ weight
    return conv2d_input(list(x.shape), weight, grad, spec.stride, spec.padding)


def _weight_gradient(grad: Tensor, x: Tensor, shape: torch.Size, spec: LayerSpec) -> Tensor:
    if spec.kind == "linear":
        return grad.flatten(0, -2).T @ x.flatten(0, -2)
    return conv2d_weight(x, list(shape), grad, spec.stride, spec.padding)


class StudentLayer(nn.Module, ABC):
    """A quantized layer whose scales and bias are learned.

    Attributes:
        log_scale: logarithm of weight scale / initial scale, [C_out].
        base: initial scale, fp16-representable, [C_out].
        activation_zero: zero point of the input's grid.
    """

    base: Tensor

    def __init__(self, spec: LayerSpec, weight_bits: int, activation_bits: int | None, activation_zero: int = 0) -> None:
        super().__init__()
        self.spec, self.weight_bits, self.activation_bits = spec, weight_bits, activation_bits
        self.activation_zero = activation_zero
        self.log_scale = nn.Parameter(torch.zeros(spec.out_channels))
        self.bias = nn.Parameter(torch.zeros(spec.out_channels)) if spec.bias else None
        self.register_buffer("base", torch.ones(spec.out_channels))

    @abstractmethod
    def start_from(self, layer: FloatLayer, scale: Tensor) -> None:
        """Take a float layer's weights and the initial scales [C_out]."""

    @property
    def scale(self) -> Tensor:
        """Present weight scales, fp16-representable, [C_out]."""
        return Snap.apply(self.base * self.log_scale.exp(), _to_half)

    @abstractmethod
    def integers(self) -> Tensor:
        """Present integers, int8 [C_out, ...]: those of the forward pass."""

    def _product(
        self, x: Tensor, row: StepRow, weight: Tensor, held: Tensor | None = None, flips: Tensor | None = None
    ) -> Tensor:
        step = inverse = activation = None
        if self.activation_bits is not None:
            low, high = (end - self.activation_zero for end in integer_range(self.activation_bits))
            activation = (low, high)
            step, inverse = row[f"{self.spec.name}.scale"], row[f"{self.spec.name}.inverse"]
        grids = _Grids(integer_range(self.weight_bits), activation)
        product: Tensor = _QuantizedProduct.apply(
            x, weight, self.scale, self.bias, step, inverse, self.base, held, flips, self.spec, grids
        )
        return product


class TrainedLayer(StudentLayer):
    """A layer whose weights are learned too.

    Attributes:
        weight: the learned weight in steps of the initial grid (``base``), float32 [C_out, ...], so that one learning rate
            suits layers of any magnitude.
        held: the integer at which a frozen weight is held, and which any other had last, int8; None when the recipe freezes nothing.
        flips: how often a weight's integer changes, a moving average, float16; -1 where the weight is frozen.
        drift: moving average of a weight's integer less its last one, float16.
    """

    held: Tensor | None
    flips: Tensor | None
    drift: Tensor | None

    def __init__(
        self, spec: LayerSpec, weight_bits: int, activation_bits: int | None, freezes: bool, activation_zero: int = 0
    ) -> None:
        super().__init__(spec, weight_bits, activation_bits, activation_zero)
        self.weight = nn.Parameter(torch.zeros(spec.weight_shape))
        for name, kind in (("held", torch.int8), ("flips", torch.float16), ("drift", torch.float16)):
            self.register_buffer(name, torch.zeros(spec.weight_shape, dtype=kind) if freezes else None)

    @torch.no_grad()
    def start_from(self, layer: FloatLayer, scale: Tensor) -> None:
        """See :class:`StudentLayer`."""
        self.base.copy_(scale)
        torch.div(layer.weight, _column(scale, layer.weight), out=self.weight.data)
        if self.bias is not None and layer.bias is not None:
            self.bias.copy_(layer.bias)
        if self.held is not None:
            self.held.copy_(self.integers())

    @property
    def frozen(self) -> Tensor | None:
        """Which weights are held, bool [C_out, ...]; None when the recipe freezes nothing."""
        return None if self.flips is None else self.flips < 0

    @torch.no_grad()
    def integers(self) -> Tensor:
        """See :class:`StudentLayer`."""
        ratio = self.weight * _column(self.base / self.scale, self.weight)
        return _held(ratio.round_().clamp_(*integer_range(self.weight_bits)), self.held, self.flips).to(torch.int8)

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        return self._product(x, row, self.weight, self.held, self.flips)


class ScaledLayer(StudentLayer):
    """A layer whose integers stay as they are.

    Attributes:
        fixed: int8 [C_out, ...].
    """

    fixed: Tensor

    def __init__(self, spec: LayerSpec, weight_bits: int, activation_bits: int | None, activation_zero: int = 0) -> None:
        super().__init__(spec, weight_bits, activation_bits, activation_zero)
        self.register_buffer("fixed", torch.zeros(spec.weight_shape, dtype=torch.int8))

    @torch.no_grad()
    def start_from(self, layer: FloatLayer, scale: Tensor) -> None:
        """See :class:`StudentLayer`."""
        self.base.copy_(scale)
        ratio = layer.weight / _column(scale, layer.weight)
        self.fixed.copy_(ratio.round_().clamp_(*integer_range(self.weight_bits)))
        if self.bias is not None and layer.bias is not None:
            self.bias.copy_(layer.bias)

    def integers(self) -> Tensor:
        """See :class:`StudentLayer`."""
        return self.fixed

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        return self._product(x, row, self.fixed)


@torch.no_grad()
def reset(layer: StudentLayer) -> None:
    """Give a layer of memory without numbers its first ones: scales of one, everything else zero."""
    for value in (*layer.parameters(), *layer.buffers()):
        value.zero_()
    layer.base.fill_(1.0)


class StudentOperators(Operators):
    """Makes the layers of a student: quantized ones for the layers with bits, float ones for the rest."""

    def __init__(
        self,
        weight_bits: Mapping[str, int],
        activation_bits: int | None,
        *,
        learns_weights: bool,
        freezes: bool,
        activation_zeros: Mapping[str, int] | None = None,
        float_inputs: frozenset[str] = frozenset(),
    ) -> None:
        """
        Args:
            learns_weights: else scales alone are learned.
            freezes: weights that are learned may be frozen.
            float_inputs: layers whose inputs are not rounded.
        """
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.learns_weights, self.freezes = learns_weights, freezes
        self.activation_zeros, self.float_inputs = activation_zeros or {}, float_inputs

    def layer(self, spec: LayerSpec) -> nn.Module:
        if spec.name not in self.weight_bits:
            return FloatLayer(spec)
        bits, rounds = self.weight_bits[spec.name], spec.name not in self.float_inputs
        activation_bits, zero = (self.activation_bits, self.activation_zeros.get(spec.name, 0)) if rounds else (None, 0)
        if self.learns_weights:
            return TrainedLayer(spec, bits, activation_bits, self.freezes, zero)
        return ScaledLayer(spec, bits, activation_bits, zero)
