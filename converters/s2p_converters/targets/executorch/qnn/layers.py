"""The layers of the U-Net as ONNX nodes: integers between two static grids, or float."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.checkpoint import QuantizedLayer
from s2p_converters.core.graph import LayerSpec
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid, OnnxGraph
from s2p_converters.targets.executorch.qnn.symbols import Symbol
from s2p_runtime.errors import S2PError

NARROW, WIDE = 4, 8
"""Bits of a weight that the chip multiplies. Grids of 2 and 6 bits rest in them."""
CUT = 256
"""The chip takes 16-bit activations apart into bytes, and cuts the sum over the lower ones to multiples of 256 units of (input
scale) * (weight scale), as it does with the bias. Seen in Qualcomm's emulator: layers alone are off by -256 to 0 such units."""
SMALLEST_RATIO = 2.0**-24
"""Of (input scale) * (weight scale) to the output scale. Below it the chip gives the lowest number of the output's grid, whatever the
sum (seen in Qualcomm's emulator)."""
_LARGEST_BIAS = 2.0**30
"""The chip adds a bias as an int32 multiple of (input scale) * (weight scale); half of the range is left for the sum."""


@dataclass(frozen=True)
class StoredWeight:
    """The weight of a layer as it is written: its integers and channel scales, where there is room a power of two larger and smaller,
    which makes what the chip cuts away (:data:`CUT`) smaller.

    Attributes:
        layer: as a convolution.
    """

    layer: QuantizedLayer

    @property
    def bits(self) -> int:
        """Stored width of one weight."""
        return NARROW if self.layer.weight_bits <= NARROW else WIDE

    @property
    def shift(self) -> int:
        """Bits that the integers have less than their place: they are written times 2^shift, the scales times 2^-shift."""
        return self.bits - self.layer.weight_bits

    @property
    def integers(self) -> NDArray[np.int8]:
        """As they are written."""
        return np.left_shift(self.layer.integers, self.shift)

    @cached_property
    def scale(self) -> NDArray[np.float32]:
        """As it is written, [C_out]; exact, as powers of two are. A channel without weights other than 0 takes the largest of the
        others: whatever it is times 0."""
        scale = self.layer.scale.astype(np.float32) * np.float32(2.0**-self.shift)
        used = self.layer.integers.reshape(len(scale), -1).any(axis=1)
        return np.where(used, scale, scale.max())

    @property
    def scheme(self) -> str:
        """For people."""
        return f"int{self.bits} per-channel"

    @property
    def stored_bytes(self) -> int:
        """Bytes of integers and channel scales."""
        return (self.layer.spec.weights * self.bits + 7) // 8 + 4 * self.layer.spec.out_channels

    def write(self, graph: OnnxGraph) -> str:
        """Append the dequantized weight; integers and scales are ``<layer>.weight`` and ``<layer>.weight_scale`` in the file."""
        name, integers = self.layer.spec.name, self.integers
        zeros = np.zeros(self.layer.spec.out_channels, np.int8)
        if self.bits == NARROW:
            stored, zero = graph.int4(integers, f"{name}.weight"), graph.int4(zeros)
        else:
            stored, zero = graph.constant(integers, f"{name}.weight"), graph.constant(zeros)
        scale = graph.constant(self.scale, f"{name}.weight_scale")
        return graph.node("DequantizeLinear", stored, scale, zero, label=name, axis=0)[0]


@dataclass(frozen=True)
class LayerGrids:
    """Static grids of a layer's input and output."""

    input: Grid
    output: Grid


def check_ratio(weight: StoredWeight, grids: LayerGrids) -> None:
    """Demand that the chip can bring the sums of every channel onto the output's grid.

    Raises:
        S2PError: a channel's scale is too small for that.
    """
    ratio = grids.input.scale * weight.scale.astype(np.float64) / grids.output.scale
    if ratio.min() < SMALLEST_RATIO:
        smallest = weight.scale[ratio.argmin()]
        raise S2PError(
            f"layer {weight.layer.spec.name} has a channel scale of {smallest:.1e}, too small for the chip beside its output",
            "use `backend=xnnpack`",
            "backend",
        )


def holds_bias(weight: StoredWeight, input_scale: float) -> bool:
    """Whether the chip's int32 sums can hold the layer's bias."""
    bias = weight.layer.bias
    assert bias is not None
    return bool((np.abs(bias.astype(np.float64)) < _LARGEST_BIAS * input_scale * weight.scale.astype(np.float64)).all())


def as_image(tokens: Symbol) -> Symbol:
    """Tokens [B, N, C] as images [B, C, 1, N]. The chip keeps channels last: nothing moves."""
    batch, count, channels = tokens.shape
    return tokens.reshape(batch, 1, count, channels).permute(0, 3, 1, 2)


def as_tokens(image: Symbol) -> Symbol:
    """The way back."""
    batch, channels, _, count = image.shape
    return image.permute(0, 2, 3, 1).reshape(batch, count, channels)


def convolution(x: Symbol, spec: LayerSpec, weight: str, bias: str | None) -> Symbol:
    """Append a convolution of x [B, C, H, W]."""
    batch, _, height, width = x.shape
    size = [(side + 2 * spec.padding - spec.kernel) // spec.stride + 1 for side in (height, width)]
    return x.apply(
        "Conv", weight, *([] if bias is None else [bias]), label=spec.name,
        kernel_shape=[spec.kernel] * 2, strides=[spec.stride] * 2, pads=[spec.padding] * 4,
        shape=(batch, spec.out_channels, *size),
    )  # fmt: skip


class _SymbolLayer(nn.Module, ABC):
    """A layer that writes itself. Linear layers are convolutions of images of one row, which the chip has per-channel 4-bit
    weights for."""

    def __init__(self, spec: LayerSpec, bias: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.spec, self.bias_values = spec, bias

    @abstractmethod
    def _written(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of an image."""

    def _shifted(self, y: Symbol) -> Symbol:
        """With the bias added in float."""
        if self.bias_values is None:
            return y
        column = y.graph.constant(self.bias_values.reshape(1, -1, 1, 1), f"{self.spec.name}.bias")
        return y.apply("Add", column, label=self.spec.name)

    def forward(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        """Append the layer to the graph of ``x``: an image of a convolution, tokens of a linear layer."""
        return as_tokens(self._written(as_image(x), row)) if self.spec.kind == "linear" else self._written(x, row)


class FloatSymbolLayer(_SymbolLayer):
    """A layer in float, which the chip computes in float16."""

    def __init__(self, spec: LayerSpec, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> None:
        super().__init__(spec, bias)
        self.weight_values = weight.reshape(spec.as_convolution().weight_shape)

    def _written(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        weight = x.graph.constant(self.weight_values, f"{self.spec.name}.weight")
        bias = None if self.bias_values is None else x.graph.constant(self.bias_values, f"{self.spec.name}.bias")
        return convolution(x, self.spec, weight, bias)


class IntegerSymbolLayer(_SymbolLayer):
    """A quantized layer between two static 16-bit grids."""

    def __init__(self, spec: LayerSpec, weight: StoredWeight, grids: LayerGrids) -> None:
        super().__init__(spec, weight.layer.bias)
        check_ratio(weight, grids)
        self.weight_form, self.grids = weight, grids

    def _written(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        graph, inside = x.graph, self.bias_values is not None and holds_bias(self.weight_form, self.grids.input.scale)
        weight = self.weight_form.write(graph)
        bias = graph.constant(self.bias_values, f"{self.spec.name}.bias") if inside and self.bias_values is not None else None
        y = convolution(x.rounded(self.grids.input), self.spec, weight, bias).rounded(self.grids.output)
        return y if inside else self._shifted(y)


class StepwiseSymbolLayer(_SymbolLayer):
    """A quantized layer with the checkpoint's own 8-bit grid of its input at each call: the input is divided by the call's scale, the
    integer convolution stands between two static 8-bit grids, and its output is multiplied by the scale."""

    def __init__(self, spec: LayerSpec, weight: StoredWeight, grids: LayerGrids) -> None:
        """
        Args:
            grids: of the divided input and of the sum over it.
        """
        super().__init__(spec, weight.layer.bias)
        check_ratio(weight, grids)
        self.weight_form, self.grids = weight, grids

    def _written(self, x: Symbol, row: Mapping[str, Symbol]) -> Symbol:
        inverse, scale = (row[f"{self.spec.name}.{part}"].reshape(1, 1, 1, 1) for part in ("inverse", "scale"))
        divided = (x * inverse).rounded(self.grids.input)
        y = convolution(divided, self.spec, self.weight_form.write(x.graph), None).rounded(self.grids.output)
        return self._shifted(y * scale)
