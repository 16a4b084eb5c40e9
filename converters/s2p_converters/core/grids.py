"""What a quantized layer may be: symmetric grids, or zero points, palettes, inputs in parts, widths that change from call to call.

The others exist so that the checkpoints of other methods can be evaluated as these mean them (docs/formats.md); no target emits them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2p_converters.core.graph.operators import LayerSpec
from s2p_converters.core.packing import integer_range, pack_nibbles, packs, unpack_nibbles

Array = NDArray[Any]
Floats = NDArray[np.float64]

MAX_ACTIVATION_BITS = 16


def _column(values: Array, dimensions: int) -> Array:
    return values.reshape(-1, *([1] * (dimensions - 1)))


@dataclass(frozen=True)
class QuantizedLayer:
    """Integers and scales of one layer with symmetric grids.

    Attributes:
        spec: the layer.
        weight_bits, activation_bits: widths; ``activation_bits`` None for float activations.
        stored: the integers, or a function that reads them from an opened checkpoint.
        scale: float16 [C_out].
        bias: float32 [C_out] or None.
        activation_scale: float32 [T] or None.
        activation_zero: the integer that stands for 0, the same in all calls: ``x̂ = s_t (clamp(round(x / s_t) + z) - z)``.
    """

    spec: LayerSpec
    weight_bits: int
    activation_bits: int | None
    stored: NDArray[np.int8] | Callable[[], NDArray[np.int8]]
    scale: NDArray[np.float16]
    bias: NDArray[np.float32] | None
    activation_scale: NDArray[np.float32] | None
    activation_zero: int = 0

    @property
    def integers(self) -> NDArray[np.int8]:
        """int8, shape ``spec.weight_shape``; of an opened checkpoint read anew at every use, so keep the array while it is in use and
        not longer."""
        return self.stored() if callable(self.stored) else self.stored

    def as_convolution(self) -> QuantizedLayer:
        """The same integers in the shape of :meth:`LayerSpec.as_convolution`."""
        spec = self.spec.as_convolution()
        return replace(self, spec=spec, stored=lambda: self.integers.reshape(spec.weight_shape))

    @property
    def activation_range(self) -> tuple[int, int]:
        """Smallest and largest multiple of the scale that a quantized activation can be; they hold 0 between them."""
        assert self.activation_bits is not None
        low, high = integer_range(self.activation_bits)
        return low - self.activation_zero, high - self.activation_zero


@dataclass(frozen=True)
class AffineWeight:
    """``w = scale (q - zero)``, q from 0 to 2^bits - 1.

    Attributes:
        integers: uint8 [C_out, C_in, ...].
        scale: float16 [C_out], positive; or [C_out, B], B a divisor of C_in: input channel j has the scale of block
            ``j // (C_in / B)``.
        zero: uint8 [C_out], on the grid.
    """

    bits: int
    integers: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero: NDArray[np.uint8]

    @property
    def values(self) -> Floats:
        """The weights, float64."""
        dimensions = self.integers.ndim
        steps = self.integers.astype(np.float64) - _column(self.zero.astype(np.float64), dimensions)
        scale = self.scale.astype(np.float64)
        if scale.ndim == 1:
            return steps * _column(scale, dimensions)
        every = np.repeat(scale, self.integers.shape[1] // scale.shape[1], axis=1)
        return steps * every.reshape(*every.shape, *([1] * (dimensions - 2)))


@dataclass(frozen=True)
class Palette:
    """Weights by lookup: output channel c takes its values from row ``c // (C_out / G)``.

    Attributes:
        indices: uint8 [C_out, ...], below 2^bits.
        entries: float16 [G, 2^bits], G a divisor of C_out; 1: one table for the layer.
    """

    bits: int
    indices: NDArray[np.uint8]
    entries: NDArray[np.float16]

    @property
    def values(self) -> Floats:
        """The weights, float64."""
        groups = self.entries.shape[0]
        rows = self.indices.reshape(groups, -1)
        return np.take_along_axis(self.entries.astype(np.float64), rows.astype(np.int64), axis=1).reshape(self.indices.shape)


@dataclass(frozen=True)
class StepGrid:
    """An activation's grid at each call: ``x̂ = scale (clamp(round(x / scale) + zero, 0, 2^bits - 1) - zero)``.

    Attributes:
        bits: uint8 [T].
        scale: float32 [T], positive.
        zero: int32 [T], on the grid.
    """

    bits: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.int32]

    @property
    def columns(self) -> Floats:
        """Scale, zero and largest integer of each call, float64 [T, 3]."""
        return np.stack([self.scale.astype(np.float64), self.zero.astype(np.float64), 2.0**self.bits - 1], axis=1)


@dataclass(frozen=True)
class LayerPart:
    """Consecutive input channels of a layer with grids of their own.

    Attributes:
        channels: how many.
        activation: None leaves them in float.
    """

    channels: int
    weight: AffineWeight | Palette
    activation: StepGrid | None = None


@dataclass(frozen=True)
class GeneralLayer:
    """A layer that symmetric grids do not describe.

    Attributes:
        parts: one, or two for an input that two tensors were put together to; all of the same widths and kinds.
        bias: float32 [C_out] or None.
        output: grid of the layer's output (operands of attention); None leaves it in float.
    """

    spec: LayerSpec
    parts: tuple[LayerPart, ...]
    bias: NDArray[np.float32] | None
    output: StepGrid | None = None

    @property
    def weight_bits(self) -> int:
        """Width of the weights."""
        return self.parts[0].weight.bits

    @property
    def activation_bits(self) -> int | None:
        """Narrowest width of the input over the calls; None: float."""
        grid = self.parts[0].activation
        return None if grid is None else int(grid.bits.min())

    @property
    def is_palette(self) -> bool:
        """Whether the weights are lookups."""
        return isinstance(self.parts[0].weight, Palette)

    @property
    def weights(self) -> Floats:
        """All weights, float64 of ``spec.weight_shape``."""
        return np.concatenate([part.weight.values for part in self.parts], axis=1)


def part_keys(name: str, index: int) -> str:
    """Prefix of a part's tensors."""
    return name if index == 0 else f"{name}.part{index}"


def weight_tensors(layer: GeneralLayer) -> dict[str, Array]:
    """What ``unet.safetensors`` holds of a layer."""
    tensors: dict[str, Array] = {}
    for index, part in enumerate(layer.parts):
        key, weight = part_keys(layer.spec.name, index), part.weight
        if isinstance(weight, Palette):
            integers = weight.indices
            tensors[f"{key}.palette"] = weight.entries
        else:
            integers = weight.integers
            tensors |= {f"{key}.weight_scale": weight.scale, f"{key}.weight_zero": weight.zero}
        tensors[f"{key}.weight_q"] = pack_nibbles(integers.view(np.int8)) if packs(weight.bits) else integers
    if layer.bias is not None:
        tensors[f"{layer.spec.name}.bias"] = layer.bias
    return tensors


def activation_tensors(layer: GeneralLayer) -> dict[str, Array]:
    """What ``activations.safetensors`` holds of a layer."""
    grids = {part_keys(layer.spec.name, index): part.activation for index, part in enumerate(layer.parts)}
    grids[f"{layer.spec.name}.output"] = layer.output
    return {
        f"{key}.{part}": values
        for key, grid in grids.items()
        if grid is not None
        for part, values in (("bits", grid.bits), ("scale", grid.scale), ("zero", grid.zero))
    }


def unpack_unsigned(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Inverse of the packing of unsigned integers up to 4 bits."""
    return unpack_nibbles(packed, shape).view(np.uint8) & np.uint8(0x0F)


def general_size_bytes(layer: GeneralLayer) -> int:
    """Bytes of a layer's weights at their own width, with scales, zero points and palettes; bias not counted."""
    total = 0
    for part in layer.parts:
        weight = part.weight
        if isinstance(weight, Palette):
            total += (weight.indices.size * weight.bits + 7) // 8 + 2 * weight.entries.size
        else:
            total += (weight.integers.size * weight.bits + 7) // 8 + 2 * weight.scale.size + weight.zero.size
    return total
