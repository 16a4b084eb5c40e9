"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


@implements("linear")
def linear(call: OpCall) -> Tensor:
    """x [..., D_in], weight [D_out, D_in] -> x weight^T + bias [..., D_out]."""
    return functional.linear(call.tensor("x"), call.tensor("weight"), call.optional("bias"))


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
