"""Matrix products and attention."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements

# Attention scores held at once; 2**26 float32 values are 256 MiB.
_SCORES_AT_ONCE = 1 << 26


@implements("linear")
def linear(call: OpCall) -> Tensor:
    """x [..., D_in], weight [D_out, D_in] -> x weight^T + bias [..., D_out]."""
    result = torch.matmul(call.tensor("x"), call.tensor("weight").transpose(0, 1))
    bias = call.optional("bias")
    return result if bias is None else result + bias


@implements("matmul")
def matmul(call: OpCall) -> Tensor:
    """NumPy's matmul; ``transpose_x`` and ``transpose_y`` swap the last two dimensions of operands of rank 2 or more."""
    x, y = call.tensor("x"), call.tensor("y")
    if call.flag("transpose_x") and x.dim() > 1:
        x = x.transpose(-1, -2)
    if call.flag("transpose_y") and y.dim() > 1:
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


@implements("einsum")
def einsum(call: OpCall) -> Tensor:
    """Einstein summation of two operands; named dimensions of size 1 broadcast."""
    return torch.einsum(call.text("equation").replace(" ", ""), *call.tensors("values"))


@implements("scaled_dot_product_attention")
def scaled_dot_product_attention(call: OpCall) -> Tensor:
    """softmax(Q K^T / sqrt(E) + mask) V over the last two dimensions; a boolean mask keeps where it is true.

    query [..., L, E], key [..., S, E], value [..., S, EV] -> [..., L, EV]. Slices of the leading dimensions are taken a few
    at a time, so that the [L, S] scores of all heads never exist together.
    """
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    length, source = query.shape[-2], key.shape[-2]
    mask = call.optional("attn_mask")
    bias: Tensor | None = None
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=call.dtype).masked_fill(~mask, float("-inf"))
        bias = mask.expand(*lead, length, source).reshape(-1, length, source)
    q, k, v = (tensor.expand(*lead, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:]) for tensor in (query, key, value))
    step = max(1, _SCORES_AT_ONCE // max(1, length * source))
    parts = []
    for start in range(0, q.shape[0], step):
        scores = torch.matmul(q[start : start + step], k[start : start + step].transpose(-1, -2)) / math.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + bias[start : start + step]
        parts.append(torch.matmul(torch.softmax(scores, -1), v[start : start + step]))
    return torch.cat(parts).reshape(*lead, length, value.shape[-1])
