"""Run-time quantization to int8 and uint8."""

from __future__ import annotations

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _along_axis(call: OpCall, parameter: Tensor, rank: int) -> Tensor:
    """Scalars as they are; a vector shaped to broadcast along ``axis``."""
    if parameter.dim() == 0:
        return parameter
    axis = call.integer("axis") % rank
    return parameter.reshape([-1 if i == axis else 1 for i in range(rank)])


@implements("quantize")
def quantize(call: OpCall) -> Tensor:
    """clip(round(input / scale) + zero_point) to int8 or uint8; ties round to even, the clip saturates."""
    x = call.tensor("input")
    steps = torch.div(x, _along_axis(call, call.tensor("scale"), x.dim())).round_()
    zero_point = call.optional("zero_point")
    if zero_point is not None:
        steps += _along_axis(call, zero_point, x.dim()).to(steps.dtype)
    name = call.text("output_dtype")
    if name not in _RANGES:
        raise call.unsupported(f"quantizes to {name}")
    return steps.clamp_(*_RANGES[name])


@implements("dequantize")
def dequantize(call: OpCall) -> Tensor:
    """scale * (input - zero_point)."""
    q = call.tensor("input").to(call.dtype, copy=True)
    zero_point = call.optional("zero_point")
    if zero_point is not None:
        q -= _along_axis(call, zero_point, q.dim()).to(call.dtype)
    q *= _along_axis(call, call.tensor("scale"), q.dim())
    return q
