"""Asymmetric grids ``x̂ = s (clamp(round(x / s) + z, 0, 2^b - 1) - z)`` and the searches for scale and zero point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2p_mobile.quantize.grid import weight_scale
from s2p_mobile.quantize.stages import Piece
from s2p_mobile.quantize.stages.weights import weight_pieces

CLIP_STEPS = 80
"""Q-Diffusion shrinks the range by 0 to 79%, one percent a time."""
NORM = 2.4
"""Exponent of the error that Q-Diffusion's searches minimise."""
_SMALLEST_SCALE = float(np.finfo(np.float16).smallest_subnormal)


@dataclass(frozen=True)
class AffineGrid:
    """
    Attributes:
        scale: float32, positive; [C_out] of a weight, [] of an activation.
        zero: integer-valued float32 on the grid, of the same shape.
    """

    scale: Tensor
    zero: Tensor
    bits: int


def fake_affine(x: Tensor, scale: Tensor, zero: Tensor, largest: Tensor | float) -> Tensor:
    """Round to the grid. Gradients are straight-through for ``x`` and LSQ's for ``scale`` (Esser et al., ICLR 2020): inside the
    grid ``dx̂/ds`` is the rounding error in steps, outside the clamped integer less the zero point."""
    ratio = x / scale
    rounded = ratio + (ratio.round() - ratio).detach()
    top = torch.as_tensor(largest, dtype=x.dtype, device=x.device)
    # Not torch.minimum: at the last grid point, which is inside, it would halve the gradient.
    integers = torch.clamp(rounded + zero, torch.zeros_like(top), top)
    return (integers - zero) * scale


def grid_of_range(low: Tensor, high: Tensor, bits: int, half: bool = False) -> AffineGrid:
    """The grid from ``low`` to ``high``; zero is always a grid point, as padding needs.

    Args:
        half: round the scale to float16, as weights store it.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    largest = 2**bits - 1
    scale = (high - low) / largest
    if half:
        scale = scale.half().float()
    # A tensor that is zero everywhere has no range; any positive scale gives zeros.
    scale = torch.where(scale > 0, scale, torch.full_like(scale, _SMALLEST_SCALE if half else 1e-8))
    return AffineGrid(scale, torch.round(-low / scale).clamp(0, largest), bits)


def weight_grid(weight: Tensor, bits: int, search: str) -> AffineGrid:
    """Grid of each output channel of a weight [C_out, ...].

    Args:
        search: ``minmax``, or ``clip``: of 80 ranges shrunk by 0 to 79% the one with the least sum of ``|error|^2.4``. Any other
            is one of :func:`~s2p_mobile.quantize.grid.weight_scale`, whose grids are symmetric: zero is ``2^(b-1)``.

    Raises:
        ValueError: unknown search.
    """
    if search not in ("minmax", "clip"):
        scale = weight_scale(weight, bits, search)
        return AffineGrid(scale, torch.full_like(scale, 2.0 ** (bits - 1)), bits)
    rows = weight.flatten(1).float()
    low, high = rows.amin(dim=1), rows.amax(dim=1)
    best = grid_of_range(low, high, bits, half=True)
    if search == "minmax":
        return best
    return _clipped(rows, low, high, bits, half=True)


def grid_pieces(shapes: Iterable[tuple[int, ...]], search: str) -> list[Piece]:
    """:func:`weight_grid` once for each weight [C_out, ...]."""
    return weight_pieces(f"weight grid search, {search}", shapes, lambda weight: weight_grid(weight, 4, search))


def activation_grid(x: Tensor, bits: int) -> AffineGrid:
    """Grid of a whole tensor by the search ``clip`` of :func:`weight_grid`."""
    rows = x.reshape(1, -1).float()
    found = _clipped(rows, rows.amin(dim=1), rows.amax(dim=1), bits, half=False)
    return AffineGrid(found.scale[0], found.zero[0], bits)


def _clipped(rows: Tensor, low: Tensor, high: Tensor, bits: int, half: bool) -> AffineGrid:
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), torch.zeros_like(low)
    for percent in range(CLIP_STEPS):
        share = 1 - percent / 100
        grid = grid_of_range(low * share, high * share, bits, half)
        rounded = fake_affine(rows, grid.scale[:, None], grid.zero[:, None], 2.0**bits - 1)
        error = (rounded - rows).abs().pow(NORM).sum(dim=1)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, grid.scale, scale), torch.where(better, grid.zero, zero)
    return AffineGrid(scale, zero, bits)
