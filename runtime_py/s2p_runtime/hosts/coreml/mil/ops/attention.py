"""Attention: the operation, and those that stand for attention written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, carrier, implements
from s2p_runtime.hosts.coreml.mil.fusion import SPLIT_ATTENTION, WRITTEN_OUT_ATTENTION
from s2p_runtime.hosts.coreml.mil.operations import NamedType

# Bytes of scores that exist at once. They stay in the processor's cache, and below the size from which on every block is asked of the
# system anew (allocator.py), which takes as long as the arithmetic.
_SCORES_AT_ONCE = 2 << 20
_FEWEST_ROWS = 32
"""However long they are: products of fewer rows are slow."""

Weighing = Callable[[Tensor, slice, slice], Tensor]
"""From the scores of some matrices' rows to their weights: (scores, matrices, rows)."""


def _attend(query: Tensor, key: Tensor, value: Tensor, weigh: Weighing) -> Tensor:
    """weigh(Q K^T) V over the last two dimensions, some rows at a time; the leading dimensions broadcast."""
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    q, k, v = (tensor.expand(*lead, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:]) for tensor in (query, key, value))
    result = q.new_empty(*q.shape[:2], v.shape[-1])
    for matrices, rows in _blocks(q.shape[0], q.shape[1], k.shape[1] * k.element_size()):
        scores = torch.matmul(q[matrices, rows], k[matrices].transpose(-1, -2))
        result[matrices, rows] = torch.matmul(weigh(scores, matrices, rows), v[matrices])
    return result.reshape(*lead, *result.shape[1:])


def _blocks(matrices: int, rows: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Whole matrices of scores, as many as may exist at once, or rows of one."""
    together = max(1, _SCORES_AT_ONCE // max(1, rows * row_bytes))
    step = rows if together > 1 else max(_FEWEST_ROWS, _SCORES_AT_ONCE // max(1, row_bytes))
    for start in range(0, matrices, together):
        for first in range(0, rows, step):
            yield slice(start, start + together), slice(first, first + step)


@implements("scaled_dot_product_attention")
def scaled_dot_product_attention(call: OpCall) -> Tensor:
    """softmax(Q K^T / sqrt(E) + mask) V over the last two dimensions; a boolean mask keeps where it is true.

    query [..., L, E], key [..., S, E], value [..., S, EV] -> [..., L, EV].
    """
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    mask = call.optional("attn_mask")
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=call.dtype).masked_fill(~mask, float("-inf"))
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
        mask = mask.expand(*lead, query.shape[-2], key.shape[-2]).reshape(-1, query.shape[-2], key.shape[-2])

    def weigh(scores: Tensor, matrices: slice, rows: slice) -> Tensor:
        scores /= math.sqrt(query.shape[-1])
        if mask is not None:
            scores += mask[matrices, rows]
        return torch.softmax(scores, -1)

    return _attend(query, key, value, weigh)


@implements(WRITTEN_OUT_ATTENTION)
def written_out_attention(call: OpCall) -> Tensor:
    """softmax(Q K^T) V, or Q K and V^T as the flags say, with scores and weights rounded to the dtypes that the program declares."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    key = key if call.flag("transpose_key") else key.transpose(-1, -2)
    value = value.transpose(-1, -2) if call.flag("transpose_value") else value
    shape = (*np.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    return _attend(query, key, value, _as_declared(call, shape))


@implements(SPLIT_ATTENTION)
def split_attention(call: OpCall) -> Tensor:
    """Of a head in the shape of the Neural Engine: query [B, c, 1, N], key [B, M, 1, c], value [B, v, 1, M] -> [B, v, 1, N]; scores
    [B, M, 1, N] are rounded as the program declares."""
    query, key, value = (call.tensor(name).transpose(1, 2) for name in ("query", "key", "value"))
    batch = np.broadcast_shapes(query.shape[:2], key.shape[:2])
    weigh = _as_declared(call, (batch[0], key.shape[2], batch[1], query.shape[3]))
    # [B, 1, N, c], [B, 1, M, c] and [B, 1, M, v]: the same numbers, looked at as rows.
    return _attend(query.transpose(2, 3), key, value.transpose(2, 3), weigh).permute(0, 3, 1, 2).contiguous()


def _as_declared(call: OpCall, shape: tuple[int, ...]) -> Weighing:
    """Softmax between the roundings of the program's own scores and weights, both of a shape.

    Raises:
        ValueError: the program declares another shape.
    """
    scores, weights = call.operation.between
    for declared in (scores, weights):
        if not declared.type.admits(shape):
            raise ValueError(f"{declared.name} has shape {shape}, the program declares {declared.type}")

    def rounded(tensor: Tensor, declared: NamedType) -> Tensor:
        return tensor if call.dtype == torch.float64 else tensor.to(carrier(declared.type.element)).to(call.dtype)

    return lambda part, *_: rounded(torch.softmax(rounded(part, scores), -1), weights)
