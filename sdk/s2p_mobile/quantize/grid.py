"""Symmetric grids and the search for their scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.host import through_double
from s2p_mobile.quantize.stages import Piece
from s2p_mobile.quantize.stages.weights import weight_pieces

CLIP_RATIOS = torch.linspace(1.0, 0.30, 71)
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)
_BLOCK, _LARGE_BLOCK = 1 << 18, 1 << 24
"""Weights whose scales are searched at a time: two buffers of them stay in a processor's cache while 71 candidates are tried, and on
any other device few enough operations are started."""


def round_to_grid(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Nearest integers of ``weight / scale`` (ties to even) inside the grid. ``scale`` broadcasts against ``weight``."""
    low, high = integer_range(bits)
    return torch.clamp(torch.round(weight / scale), low, high)


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *([1] * (weight.dim() - 1)))


def weight_scale(weight: Tensor, bits: int, search: str = "mse") -> Tensor:
    """Scale of each output channel.

    Args:
        weight: float [C_out, ...].
        bits: width of the grid.
        search: ``mse`` tries 71 clipping ratios from 1.0 down to 0.3 of the largest magnitude and keeps the one with the least
            squared error; ``absmax`` keeps 1.0. A scale is rounded to float16 before it is judged.

    Returns:
        float32 [C_out], every value representable in float16 and positive.

    Raises:
        ValueError: unknown search.
    """
    if search not in ("mse", "absmax"):
        raise ValueError(f"unknown search {search!r}")
    ratios = (CLIP_RATIOS if search == "mse" else CLIP_RATIOS[:1]).tolist()
    block = _BLOCK if weight.device.type == "cpu" else _LARGE_BLOCK
    channels = weight.float().flatten(1).split(max(1, block // max(1, weight[0].numel())))
    return torch.cat([_channel_scales(part, bits, ratios) for part in channels])


def _channel_scales(weight: Tensor, bits: int, ratios: Sequence[float]) -> Tensor:
    """:func:`weight_scale` of a few channels, float32 [C, n]."""
    low, high = integer_range(bits)
    largest = weight.abs().amax(dim=1)
    base = largest / high
    best = torch.full_like(base, torch.inf)
    chosen = torch.ones_like(base)
    work = torch.empty_like(weight)
    for ratio in ratios:
        scale = (base * ratio).half().float().clamp(min=_SMALLEST_SCALE)
        column = scale[:, None]
        # The square of round_to_grid(weight, column, bits) * column - weight, without new memory for every operation.
        torch.div(weight, column, out=work).round_().clamp_(low, high).mul_(column).sub_(weight).square_()
        error = work.sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, scale, chosen)
    return torch.where(largest > 0, chosen, torch.ones_like(chosen))


def quantize_weight(weight: Tensor, scale: Tensor, bits: int) -> NDArray[np.int8]:
    """Integers of a weight [C_out, ...] under per-channel scales [C_out]."""
    integers: NDArray[np.int8] = round_to_grid(weight.float(), _column(scale, weight), bits).to(torch.int8).numpy()
    return integers


def search_pieces(shapes: Iterable[tuple[int, ...]], search: str, times: int = 1, on_host: bool = False) -> list[Piece]:
    """:func:`weight_scale` and :func:`quantize_weight`, ``times`` times for each weight [C_out, ...]."""

    def round_once(weight: Tensor) -> None:
        bits = 4  # of no consequence for the time
        round_to_grid(weight, _column(weight_scale(weight, bits, search), weight), bits)

    return weight_pieces(f"weight scale search, {search}", shapes, round_once, times, on_host)


def snap_activation_scale(scale: Tensor) -> Tensor:
    """Nearest scale for which ``2^-7 / scale`` is representable in float16, as float32.

    A program multiplies by that reciprocal before it rounds to int8, so a reciprocal without rounding error makes fp16 and fp32
    builds agree on which integer an activation becomes. Computed on the processor, wherever the scale is.
    """
    return through_double(_snapped, scale)


def _snapped(scale: Tensor) -> Tensor:
    tiny, huge = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)
    return 2.0**-7 / (2.0**-7 / scale).half().double().clamp(tiny, huge)


def stored_reciprocal(scale: Tensor) -> Tensor:
    """``1 / scale`` as a checkpoint's reader has it, which divides in float64 and stores ``2^-7 / scale`` in float32."""
    return through_double(lambda exact: 2.0**-7 / exact, scale).to(scale.dtype) * 2.0**7
