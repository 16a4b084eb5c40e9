"""The U-Net's operators as ONNX nodes, each in the form that the chip computes well.

Integer layers lie between static 16-bit grids. Everything between them is float, which the chip computes in float16. What decided,
measured in Qualcomm's emulator (QAIRT 2.51, SM8650) against float64: a product of two 16-bit tensors keeps 40 dB, because the
second one is cut to 8 bits, and in float16 69 dB; LayerNormalization takes its gain in 8 bits only next to 16-bit activations,
which is 31 to 50 dB, and in float16 71 dB; GroupNormalization is one operator in float16 (71 dB) and not offered for integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from s2p_converters.core.graph import GraphOperators, LayerSpec
from s2p_converters.core.graph.channels_first import query_rows
from s2p_converters.targets.executorch.qnn.layers import FloatSymbolLayer
from s2p_converters.targets.executorch.qnn.onnx_graph import Grid
from s2p_converters.targets.executorch.qnn.symbols import Symbol

_LEAST_GELU = -0.17
"""GELU has its minimum of -0.16997 at -0.7518."""


class QnnOperators(GraphOperators[Symbol]):
    """Writes operators into a graph; tokens lie as [B, N, C]."""

    def __init__(self, layers: Mapping[str, nn.Module], floats: Mapping[str, NDArray[np.float32]]) -> None:
        """
        Args:
            layers: what writes the quantized layers, by name.
            floats: every other parameter by its diffusers name.
        """
        self.layers, self.floats = layers, floats

    def constant(self, value: float) -> float:
        """As the program stores it."""
        return float(np.float32(value))

    def layer(self, spec: LayerSpec) -> nn.Module:
        """An integer layer where the checkpoint has integers, else a float layer."""
        if spec.name in self.layers:
            return self.layers[spec.name]
        weight, bias = self.floats[f"{spec.name}.weight"], self.floats.get(f"{spec.name}.bias")
        return FloatSymbolLayer(spec, _single(weight), None if bias is None else _single(bias))

    def tokens(self, x: Symbol) -> Symbol:
        """[B, C, H, W] -> [B, H * W, C]."""
        batch, channels, height, width = x.shape
        return x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)

    def picture(self, x: Symbol, height: int, width: int) -> Symbol:
        """[B, H * W, C] -> [B, C, H, W]."""
        return x.reshape(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)

    def halves(self, x: Symbol) -> tuple[Symbol, Symbol]:
        """Slices of channels."""
        first, second = x.split(x.shape[2] // 2, dim=2)
        return first, second

    def group_norm(self, x: Symbol, norm: nn.GroupNorm) -> Symbol:
        """GroupNorm of x [B, C, H, W]."""
        return self._norm(x, norm, "GroupNormalization", num_groups=norm.num_groups).shapeless()

    def layer_norm(self, x: Symbol, norm: nn.LayerNorm) -> Symbol:
        """LayerNorm of tokens [B, N, C]."""
        return self._norm(x, norm, "LayerNormalization", axis=-1)

    def _norm(self, x: Symbol, norm: nn.Module, kind: str, **attributes: Any) -> Symbol:
        name: str = norm.s2p_name  # type: ignore[assignment]
        parts = (getattr(norm, part).detach().numpy().astype(np.float32) for part in ("weight", "bias"))
        gain, shift = (x.graph.constant(part) for part in parts)
        epsilon: float = norm.eps  # type: ignore[assignment]
        return x.apply(kind, gain, shift, label=name, epsilon=self.constant(epsilon), **attributes)

    def attention(self, q: Symbol, k: Symbol, v: Symbol, heads: int) -> Symbol:
        """q [B, N, C], k and v [B, M, C] -> [B, N, C]. Of many tokens the scores are made some rows at a time."""
        batch, count, channels = q.shape
        width, keys = channels // heads, k.shape[1]
        query = (q * self.constant(width**-0.5)).reshape(batch, count, heads, width).permute(0, 2, 1, 3)
        turned = k.reshape(batch, keys, heads, width).permute(0, 2, 3, 1)
        values = v.reshape(batch, keys, heads, width).permute(0, 2, 1, 3)
        parts = [self._attend(part, turned, values) for part in query.split(query_rows(count, keys), dim=2)]
        mixed: Any = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)  # type: ignore[arg-type]  # symbols
        joined: Symbol = mixed
        return joined.permute(0, 2, 1, 3).reshape(batch, count, channels)

    def _attend(self, query: Symbol, turned: Symbol, values: Symbol) -> Symbol:
        batch, heads, count, _ = query.shape
        scores = query.apply("MatMul", turned.value, shape=(batch, heads, count, turned.shape[3]))
        return scores.apply("Softmax", axis=-1).apply("MatMul", values.value, shape=query.shape)

    def silu(self, x: Symbol) -> Symbol:
        """x * sigmoid(x)."""
        return x * x.apply("Sigmoid")

    def gelu(self, x: Symbol) -> Symbol:
        """Exact (erf) GELU. Of integers it is one between two grids (67 dB alone, in float16 64 dB)."""
        grid = x.grid and Grid.of_range(_LEAST_GELU, x.grid.high, x.grid.bits)
        return x.apply("Gelu").rounded(grid)

    def upsample(self, x: Symbol) -> Symbol:
        """Nearest-neighbour upsampling by two."""
        batch, channels, height, width = x.shape
        factors = x.graph.constant(np.array([1, 1, 2, 2], np.float32))
        return x.apply(
            "Resize", "", factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            shape=(batch, channels, 2 * height, 2 * width),
        )  # fmt: skip


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
