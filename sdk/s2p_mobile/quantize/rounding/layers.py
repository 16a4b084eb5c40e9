"""Layers whose weights are rounded up or down and whose inputs lie on affine grids; the graph made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, Operators, StepRow
from s2p_converters.core.graph.operators import FloatLayer
from s2p_converters.core.grids import AffineWeight, GeneralLayer, LayerPart, StepGrid
from s2p_converters.core.reference import attention_with_rounded_weights
from s2p_mobile.quantize.rounding.affine import AffineGrid, fake_affine, weight_grid

STEP = "step"
"""Row entry with the call indices, int64 [S]."""
GAMMA, ZETA = -0.1, 1.1
"""Ends of the stretched sigmoid (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020)."""


class IndexedTables(nn.Module):
    """Step tables whose rows also hold the step itself."""

    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, step: Tensor, *of_prompt: Tensor) -> dict[str, Tensor]:
        """As the tables it is made of."""
        return {**self.tables(step, *of_prompt), STEP: step}


class AdaRoundWeight(nn.Module):
    """``s (clamp(floor(w / s) + h + z, 0, 2^b - 1) - z)``: h is 0 or 1 for each weight, or between the two while it is learned.

    A weight waits as the FP one that it is made of, and takes a byte when it is finished; what learning needs is there meanwhile.

    Attributes:
        source: the FP weight [C_out, ...], wherever it lies; not a part of the module.
        variables: V of ``h = clamp(1.2 sigmoid(V) - 0.1, 0, 1)`` while they are learned, else None.
    """

    def __init__(self, weight: Tensor, bits: int, search: str, device: torch.device | None = None) -> None:
        """
        Args:
            search: of the grid, see :func:`~s2p_mobile.quantize.rounding.affine.weight_grid`.
            device: where it is used; that of the weight when None.
        """
        super().__init__()
        self.bits, self.search, self.source = bits, search, weight
        self._device = weight.device if device is None else device
        self._grid: tuple[Tensor, Tensor] | None = None
        self._floor: Tensor | None = None
        self._fixed: Tensor | None = None
        self.variables: nn.Parameter | None = None

    @property
    def device(self) -> torch.device:
        """Where it is used."""
        return self._device

    def values(self) -> Tensor:
        """The FP weight where it is used, float32."""
        return self.source.to(self._device).float()

    @property
    def scale(self) -> Tensor:
        """s, [C_out, 1, ...]."""
        return self._searched()[0]

    @property
    def zero(self) -> Tensor:
        """z, [C_out, 1, ...]."""
        return self._searched()[1]

    def _searched(self) -> tuple[Tensor, Tensor]:
        if self._grid is None:
            with torch.no_grad():
                grid = weight_grid(self.values(), self.bits, self.search)
            shape = (-1, *([1] * (self.source.dim() - 1)))
            self._grid = grid.scale.reshape(shape), grid.zero.reshape(shape)
        return self._grid

    def begin(self) -> nn.Parameter:
        """Make h learnable, starting where the sum is the float weight itself."""
        ratio = self.values() / self.scale
        self._floor = ratio.floor()
        rest = ratio.sub_(self._floor)
        self._fixed = None
        self.variables = nn.Parameter(-torch.log((ZETA - GAMMA) / (rest - GAMMA) - 1))
        return self.variables

    @torch.no_grad()
    def finish(self) -> None:
        """Fix every h at the nearer of 0 and 1."""
        assert self._floor is not None
        up = (self.softness() >= 0.5).float()
        self._fixed = (self._floor + up + self.zero).clamp_(0, 2**self.bits - 1).to(torch.uint8)
        self._floor = self.variables = None

    def finished(self) -> dict[str, Tensor]:
        """What is learned, to be kept."""
        return {"integers": self.integers().to(torch.uint8), "scale": self.scale, "zero": self.zero}

    def take(self, found: Mapping[str, Tensor]) -> None:
        """Be finished, as it was kept."""
        self._grid = found["scale"].to(self._device), found["zero"].to(self._device)
        self._fixed = found["integers"].to(self._device)

    def softness(self) -> Tensor:
        """h of every weight while it is learned, float32."""
        assert self.variables is not None
        return (torch.sigmoid(self.variables) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def integers(self) -> Tensor:
        """Integers on the grid (fractions while h is learned), float32; rounded to nearest before anything is learned."""
        if self._fixed is not None:
            return self._fixed.float()
        if self._floor is None:
            return ((self.values() / self.scale).round_() + self.zero).clamp_(0, 2**self.bits - 1)
        return (self._floor + self.softness() + self.zero).clamp(0, 2**self.bits - 1)

    def forward(self) -> Tensor:
        """The weights, float32."""
        return (self.integers() - self.zero) * self.scale

    @torch.no_grad()
    def near_source(self, remainder: float) -> Tensor:
        """The FP weights, each moved to at most ``remainder`` steps from the grid point that was chosen for it, float32.

        None lies outside of its grid, where it would get no gradient.
        """
        integers = self.integers()
        ratio = (self.values() / self.scale).add_(self.zero)
        near = torch.minimum(torch.maximum(ratio, integers - remainder), integers + remainder)
        return near.clamp_(0, 2**self.bits - 1).sub_(self.zero).mul_(self.scale)

    @torch.no_grad()
    def export(self) -> AffineWeight:
        """As a checkpoint stores it."""
        integers = self.integers().cpu().numpy().astype(np.uint8)
        scale, zero = (values.flatten().cpu().numpy() for values in (self.scale, self.zero))
        return AffineWeight(self.bits, integers, scale.astype(np.float16), zero.astype(np.uint8))


class InputGrid(nn.Module):
    """The grid of one tensor at every call.

    Attributes:
        scale, zero, bits: float32 [T].
        factor: learned factor of all scales, [1].
    """

    scale: Tensor
    zero: Tensor
    bits: Tensor

    def __init__(self, calls: int, bits: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(calls))
        self.register_buffer("zero", torch.zeros(calls))
        self.register_buffer("bits", torch.full((calls,), float(bits)))
        self.factor = nn.Parameter(torch.ones(1), requires_grad=False)

    @torch.no_grad()
    def set(self, grid: AffineGrid, call: int | None = None) -> None:
        """Take a grid for one call, or for all."""
        chosen = slice(None) if call is None else call
        self.scale[chosen], self.zero[chosen], self.bits[chosen] = grid.scale, grid.zero, float(grid.bits)

    def forward(self, x: Tensor, spec: LayerSpec, step: Tensor) -> Tensor:
        """Round ``x``, an input or output of ``spec``, on the grids of the calls [S]."""
        columns = (self.scale * self.factor, self.zero, 2.0**self.bits - 1)
        scale, zero, largest = (spec.per_step(column.index_select(0, step)[:, None]) for column in columns)
        return fake_affine(x, scale, zero, largest)

    @torch.no_grad()
    def export(self) -> StepGrid:
        """As a checkpoint stores it."""
        scale, zero, bits = (values.cpu().numpy() for values in (self.scale * self.factor, self.zero, self.bits))
        return StepGrid(bits.astype(np.uint8), scale.astype(np.float32), zero.astype(np.int32))


class RoundedLayer(nn.Module):
    """A layer of one part, or of two for an input that two tensors were put together to.

    Attributes:
        weights: one for each part.
        inputs: one for each part; empty: float inputs.
        output: grid of the output (operands of attention), or None.
    """

    def __init__(
        self,
        spec: LayerSpec,
        weights: Sequence[AdaRoundWeight],
        bias: Tensor | None,
        channels: tuple[int, ...],
    ) -> None:
        """
        Args:
            weights: of the parts.
            channels: of the input, of each part.
        """
        super().__init__()
        self.spec, self.channels = spec, channels
        self.weights = nn.ModuleList(weights)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.inputs = nn.ModuleList()
        self.output: InputGrid | None = None

    @property
    def parts(self) -> list[AdaRoundWeight]:
        """Weights of each part."""
        return [weight for weight in self.weights if isinstance(weight, AdaRoundWeight)]

    @property
    def axis(self) -> int:
        """The channels of the input."""
        return -1 if self.spec.kind == "linear" else 1

    def add_grids(self, calls: int, bits: int, output: bool) -> None:
        """Round inputs (and the output) from now on; scales are 1 until they are set."""
        device = self.parts[0].device
        self.inputs = nn.ModuleList(InputGrid(calls, bits) for _ in self.channels).to(device)
        self.output = InputGrid(calls, bits).to(device) if output else None

    def forward(self, x: Tensor, row: StepRow) -> Tensor:
        if self.inputs:
            parts = x.split(self.channels, dim=self.axis)
            x = torch.cat(
                [grid(part, self.spec, row[STEP]) for grid, part in zip(self.inputs, parts, strict=True)], dim=self.axis
            )
        y = self.spec.apply(x, torch.cat([weight() for weight in self.parts], dim=1), self.bias)
        return y if self.output is None else self.output(y, self.spec, row[STEP])

    def export(self) -> GeneralLayer:
        """As a checkpoint stores it."""
        inputs = [grid.export() for grid in self.inputs if isinstance(grid, InputGrid)]
        grids: Sequence[StepGrid | None] = inputs or [None] * len(self.channels)
        parts = tuple(
            LayerPart(channels, weight.export(), grid)
            for channels, weight, grid in zip(self.channels, self.parts, grids, strict=True)
        )
        bias = None if self.bias is None else self.bias.detach().cpu().numpy().astype(np.float32)
        return GeneralLayer(self.spec, parts, bias, None if self.output is None else self.output.export())


def rounded_layer(
    spec: LayerSpec,
    weight: Tensor,
    bias: Tensor | None,
    bits: int,
    search: str,
    channels: tuple[int, ...] | None = None,
    device: torch.device | None = None,
) -> RoundedLayer:
    """A layer whose weights are rounded to nearest at first.

    Args:
        weight, bias: of the FP layer.
        channels: of the input's parts; one part when None.
        device: where it is used; that of the weight when None.
    """
    parts = channels or (spec.in_channels,)
    weights = [AdaRoundWeight(part, bits, search, device) for part in weight.split(parts, dim=1)]
    return RoundedLayer(spec, weights, None if bias is None else bias.detach().to(device or bias.device), parts)


class RoundedOperators(Operators):
    """Makes the layers of a graph: rounded ones where there are some, float ones elsewhere.

    Attributes:
        softmax_bits: width of attention's softmax; None: float.
    """

    def __init__(self, layers: Mapping[str, RoundedLayer]) -> None:
        self.layers = layers
        self.softmax_bits: int | None = None

    def layer(self, spec: LayerSpec) -> nn.Module:
        return self.layers.get(spec.name) or FloatLayer(spec)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if self.softmax_bits is None:
            return super().attention(q, k, v, heads)
        return attention_with_rounded_weights(q, k, v, heads, math.sqrt(heads / q.shape[2]), self.softmax_bits)
