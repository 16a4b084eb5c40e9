"""Activation grids from what the quantized graph itself shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2p_mobile.quantize.rounding.affine import activation_grid, grid_of_range
from s2p_mobile.quantize.rounding.layers import InputGrid
from s2p_mobile.quantize.rounding.rounded import RoundedNetwork
from s2p_mobile.quantize.stages import LayerWork, Piece
from s2p_mobile.quantize.stages.stage import Run

_LARGEST_INPUT = 1 << 20
"""Numbers of a tensor at most whose range is searched to time it."""

Sees = Callable[[InputGrid, Tensor], None]
"""Called with a grid and the tensor that it is about to round; may change the grid."""


@contextlib.contextmanager
def observing(network: RoundedNetwork, sees: Sees) -> Iterator[None]:
    """While the student runs, show every tensor to its grid first; what follows sees it rounded by the changed grid."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, InputGrid)
        sees(module, args[0])

    grids = [module for module in network.student.modules() if isinstance(module, InputGrid)]
    handles = [grid.register_forward_pre_hook(hook) for grid in grids]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class RunningRanges:
    """Smallest and largest value of every grid's tensor, moving averages over batches; the first batch counts whole.

    Attributes:
        momentum: share of the past.
        bits: bit-width of the grids made; each grid's own when None.
        call: the call that is observed; None: one grid for all calls.
    """

    def __init__(self, momentum: float, bits: int | None = None, call: int | None = None) -> None:
        self.momentum, self.bits, self.call = momentum, bits, call
        self._ranges: dict[InputGrid, tuple[Tensor, Tensor]] = {}

    def start(self, grid: InputGrid, x: Tensor) -> None:
        """The first batch of a search: take its range, and set the grid by the least ``|error|^2.4``."""
        self._ranges[grid] = (x.amin(), x.amax())
        grid.set(activation_grid(x, self._bits(grid)), self.call)

    def update(self, grid: InputGrid, x: Tensor) -> None:
        """Every other batch: move the range and set the grid to it."""
        low, high = x.amin(), x.amax()
        if grid in self._ranges:
            past_low, past_high = self._ranges[grid]
            low = self.momentum * past_low + (1 - self.momentum) * low
            high = self.momentum * past_high + (1 - self.momentum) * high
        self._ranges[grid] = (low, high)
        grid.set(grid_of_range(low, high, self._bits(grid)), self.call)

    def _bits(self, grid: InputGrid) -> int:
        return self.bits if self.bits is not None else int(grid.bits[0])


def range_pieces(layers: Sequence[LayerWork], batch: int, times: int) -> list[Piece]:
    """:meth:`RunningRanges.update` of every layer's input, ``times`` times on so many samples."""
    return [_piece("activation ranges", layer, batch, times, RunningRanges.update) for layer in layers]


def search_pieces(layers: Sequence[LayerWork], batch: int) -> list[Piece]:
    """:meth:`RunningRanges.start` of every layer's input."""
    return [_piece("activation range search", layer, batch, 1, RunningRanges.start) for layer in layers]


def _piece(
    kind: str, layer: LayerWork, batch: int, times: int, look: Callable[[RunningRanges, InputGrid, Tensor], None]
) -> Piece:
    values = layer.values * batch
    timed = min(values, _LARGEST_INPUT)

    def prepare(device: torch.device) -> Run:
        ranges, grid, x = RunningRanges(0.9), InputGrid(1, 8).to(device), torch.randn(timed, device=device)
        return lambda: look(ranges, grid, x)

    return Piece(kind, timed, times * values / timed, timed, prepare)
