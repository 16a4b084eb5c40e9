"""The rounded graph without numbers, and learning on its units, for what is counted and timed before there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet, UNetStructure, layer_specs
from s2p_mobile.quantize.rounding.layers import AdaRoundWeight, IndexedTables, RoundedLayer, RoundedOperators
from s2p_mobile.quantize.rounding.learned import LearnUnit, UnitData
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork
from s2p_mobile.quantize.rounding.waiting import RowsInMemory
from s2p_mobile.quantize.stages import Passes, Piece
from s2p_mobile.quantize.stages.counting import ShapeRows, is_inside
from s2p_mobile.quantize.stages.parts import EmptyPart, PartwiseNetwork
from s2p_mobile.quantize.stages.stage import Precision, Run

_BITS = 8
"""Of every grid; of no consequence for the time."""
TIMED_ITERATIONS = 5
"""Optimizer steps of a timed piece."""
_WEIGHT_OPERATIONS = 1000
"""What the work on each weight in an optimizer step is worth beside the products, roughly: it waits for the memory."""


@functools.lru_cache(maxsize=8)
def rounded_network(
    structure: UNetStructure, tokens: int, layers: frozenset[str], *, grids: bool, attention: bool = False
) -> PartwiseNetwork:
    """A graph with rounded layers, timed part by part.

    Args:
        tokens: N of the text.
        layers: names of the rounded layers.
        grids: their inputs are rounded too.
        attention: the operands of attention as well.
    """

    def build() -> StepUNet:
        rounded = {
            spec.name: RoundedLayer(spec, [_AnyWeight(spec)], _bias(spec), (spec.in_channels,))
            for spec in layer_specs(structure)
            if spec.name in layers
        }
        unet = StepUNet(structure, IndexedTables(ShapeRows(structure)), RoundedOperators(rounded)).requires_grad_(False)
        if grids:
            RoundedNetwork(unet, unet, rounded, 1, _BITS, attention).add_input_grids()
        return unet

    return PartwiseNetwork(f"rounded network{' with grids' if grids else ''}", structure, tokens, build)


class _AnyWeight(AdaRoundWeight):
    """A weight of random numbers, which go where the module goes."""

    numbers: Tensor

    def __init__(self, spec: LayerSpec) -> None:
        weight = torch.empty(spec.weight_shape)
        super().__init__(weight, _BITS, "minmax")
        self.register_buffer("numbers", weight)

    @property
    def device(self) -> torch.device:
        """See :class:`AdaRoundWeight`."""
        return self.numbers.device

    def values(self) -> Tensor:
        """See :class:`AdaRoundWeight`."""
        return (
            self.numbers
            if self.numbers.is_meta
            else torch.linspace(-1, 1, 1009, device=self.device)[
                torch.arange(self.numbers.numel(), device=self.device).view_as(self.numbers) % 1009
            ]
        )

    def _searched(self) -> tuple[Tensor, Tensor]:
        column = (-1, *([1] * (self.numbers.dim() - 1)))
        ones = self.numbers.new_ones(self.numbers.shape[0]).reshape(column)
        return ones * 0.01, ones * 128


def _bias(spec: LayerSpec) -> Tensor | None:
    return torch.empty(spec.out_channels) if spec.bias else None


class LearnedUnits:
    """Optimizer steps on one unit at a time: a :class:`~s2p_mobile.quantize.stages.Network`."""

    def __init__(self, kind: str, network: PartwiseNetwork, learn: LearnUnit) -> None:
        """
        Args:
            kind: of its pieces, see :class:`Piece`.
            network: whose units learn.
            learn: makes :data:`TIMED_ITERATIONS` steps.
        """
        self.kind, self.network, self.learn = kind, network, learn

    @property
    def precision(self) -> Precision:
        """See :class:`Network`."""
        return self.network.precision

    def launches(self, passes: Passes) -> int:
        """See :class:`Network`; those of the passes."""
        return self.network.launches(passes)

    def pieces(self, passes: Passes) -> Sequence[Piece]:
        """See :class:`Network`."""
        assert passes.part is not None
        part, flops = self.network.part(passes.part, passes.batch, 3)
        weights = sum(spec.weights for spec in layer_specs(self.network.structure) if is_inside(spec.name, passes.part))
        wanted = 3 * self.network.flops(passes.part) * passes.batch + _WEIGHT_OPERATIONS * weights
        timed = 3 * flops + _WEIGHT_OPERATIONS * weights
        count = passes.count / TIMED_ITERATIONS * wanted / timed
        return [Piece(self.kind, part.key, count, TIMED_ITERATIONS * timed, self._steps(part))]

    def _steps(self, part: EmptyPart) -> Callable[[torch.device], Run]:
        def prepare(device: torch.device) -> Run:
            unit, inputs = part.fill(device, differentiable=False)
            tables = _FixedRow(inputs[-1])
            calls = torch.zeros(len(inputs[0]), dtype=torch.int64)
            with torch.no_grad():
                targets = RowsInMemory(torch.randn_like(unit(*inputs)), device)
            tensors = [RowsInMemory(value, device) for value in inputs if isinstance(value, Tensor)]
            return lambda: self.learn(unit, tables, UnitData(tensors, calls, targets))

        return prepare


class _FixedRow(nn.Module):
    """Step tables that give one row whatever the step."""

    def __init__(self, row: dict[str, Tensor]) -> None:
        super().__init__()
        self.row = row

    def forward(self, step: Tensor, *of_prompt: Tensor) -> dict[str, Tensor]:
        """The row."""
        return self.row
