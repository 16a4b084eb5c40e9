"""Rounding in which the weights not yet rounded make up for the errors of those that are.

GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023). The columns
of a weight matrix are rounded one after another, those with the largest inputs first; after column k the remaining ones move by
``-(w_k - q_k) / U_kk * U_k,k+1:``, U the upper Cholesky factor of the inverse of the inputs' second moments. That is the step
which makes up for the output error of column k best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s2p_converters.core.graph import LayerSpec
from s2p_converters.core.packing import integer_range
from s2p_mobile.quantize.host import in_double
from s2p_mobile.quantize.moments import moment_shape
from s2p_mobile.quantize.stages import Piece
from s2p_mobile.quantize.stages.stage import Run

DAMPING = 0.01
"""Of the mean diagonal of the moments, added to every diagonal entry; the authors' value."""
_LAZY_COLUMNS = 64
"""Columns between two updates of the rest of the matrix; changes the order of sums only."""
_COLUMN_OPERATIONS = 5e6
"""What the few small operations for each column are worth beside the large products, roughly."""


@torch.no_grad()
def compensated(weight: Tensor, scale: Tensor, bits: int, moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Weights moved such that rounding each of them to nearest gives GPTQ's integers.

    Args:
        weight: float [C_out, ...].
        scale: of each output channel, float [C_out].
        bits: bit-width of the grid.
        moments: sums of ``x x^T`` over the inputs x of each block of columns, float [G, d, d]; ``G d`` is the number of weights of an
            output channel, in their order in memory. Columns of different blocks do not make up for each other.

    Returns:
        float32, the shape of ``weight``. Each value lies within half a step of its grid point.
    """
    column = scale.reshape(-1, 1).float()
    blocks = (weight.flatten(1).float() / column).split(moments.shape[-1], dim=1)
    moved = [_compensate(block, moment, bits, damping) for block, moment in zip(blocks, moments, strict=True)]
    return (torch.cat(moved, dim=1) * column).view_as(weight)


def _compensate(steps: Tensor, moments: Tensor, bits: int, damping: float) -> Tensor:
    """One block: weights in grid steps [C_out, d] -> the values they have at the moment of their rounding."""
    low, high = integer_range(bits)
    order = moments.diagonal().argsort(descending=True)
    rest, factor = steps[:, order].clone(), _inverse_factor(moments[order][:, order], damping)
    width = rest.shape[1]
    for begin in range(0, width, _LAZY_COLUMNS):
        end = min(begin + _LAZY_COLUMNS, width)
        errors = torch.zeros_like(rest[:, begin:end])
        for k in range(begin, end):
            value = rest[:, k].clamp(low - 0.5, high + 0.5)
            errors[:, k - begin] = (rest[:, k] - value.round().clamp(low, high)) / factor[k, k]
            rest[:, k] = value
            rest[:, k + 1 : end].addr_(errors[:, k - begin], factor[k, k + 1 : end], alpha=-1)
        rest[:, end:] -= errors @ factor[begin:end, end:]
    return rest[:, order.argsort()]


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped moments, float32 [d, d]."""
    # On the processor: graphics processors are slow in float64, or do not have it.
    matrix = in_double(moments)
    mean = matrix.diagonal().mean()
    # Inputs that were never seen, and a layer whose inputs are all zero: any positive number leaves their weights as they are.
    matrix.diagonal().add_(damping * mean if mean > 0 else 1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    return torch.linalg.cholesky(inverse, upper=True).float().to(moments.device)


def compensation_pieces(layers: Sequence[LayerSpec]) -> list[Piece]:
    """:func:`compensated` for each layer, block by block."""
    pieces = []
    for layer in layers:
        blocks, width, _ = moment_shape(layer)
        size = layer.out_channels * width**2 + 3 * width**3 + _COLUMN_OPERATIONS * width
        key = (layer.out_channels, width)
        pieces.append(Piece("compensated rounding", key, blocks, size, _block(*key)))
    return pieces


def _block(rows: int, width: int) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        weight, scale = torch.randn(rows, width, device=device), torch.ones(rows, device=device)
        moments = torch.eye(width, device=device)[None]
        return lambda: compensated(weight, scale, 4, moments)

    return prepare
