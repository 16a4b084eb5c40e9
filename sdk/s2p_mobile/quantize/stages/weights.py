"""Searches over the weights of a layer as pieces: rows of a weight are independent of each other, so a large one is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from s2p_mobile.quantize.stages.stage import Piece, Run

LARGEST_WEIGHT = 1 << 19
"""Numbers of a timed weight at most."""


def weight_pieces(
    kind: str, shapes: Iterable[tuple[int, ...]], search: Callable[[Tensor], object], times: float = 1, on_host: bool = True
) -> list[Piece]:
    """A search made ``times`` times in weights of these shapes, each [C_out, ...].

    Args:
        search: called with a weight of random numbers.
    """
    pieces = []
    for shape in shapes:
        columns = torch.Size(shape[1:]).numel()
        rows = min(shape[0], max(1, LARGEST_WEIGHT // columns))
        key = (rows, *shape[1:])
        pieces.append(Piece(kind, key, times * shape[0] / rows, rows * columns, _prepare(key, search), on_host))
    return pieces


def _prepare(shape: tuple[int, ...], search: Callable[[Tensor], object]) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        return lambda: search(weight)

    return prepare
