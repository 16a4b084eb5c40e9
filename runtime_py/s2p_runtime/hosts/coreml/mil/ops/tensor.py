"""Making tensors, asking for shapes, padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


@implements("fill")
def fill(call: OpCall) -> Tensor:
    value = call.optional("value")
    return (torch.zeros(()) if value is None else value.reshape(())).expand(call.ints("shape")).clone()


@implements("fill_like")
def fill_like(call: OpCall) -> Tensor:
    value = call.optional("value")
    return (torch.zeros(()) if value is None else value.reshape(())).expand(call.tensor("ref_tensor").shape).clone()


@implements("range_1d")
def range_1d(call: OpCall) -> Tensor:
    """start, start + step, ... below (or above, for a negative step) ``end``."""
    start, end, step = call.tensor("start"), call.tensor("end"), call.tensor("step")
    count = max(0, math.ceil((end.double() - start.double()).item() / step.double().item()))
    return start + step * torch.arange(count).to(start.dtype)


@implements("shape")
def shape(call: OpCall) -> Tensor:
    return torch.tensor(call.tensor("x").shape, dtype=torch.int32)


@implements("band_part")
def band_part(call: OpCall) -> Tensor:
    """Zero outside the band: at most ``lower`` sub-diagonals and ``upper`` super-diagonals; negative keeps all."""
    x, lower, upper = call.tensor("x"), call.integer("lower", -1), call.integer("upper", -1)
    row = torch.arange(x.shape[-2])[:, None]
    column = torch.arange(x.shape[-1])[None, :]
    keep = torch.ones(x.shape[-2:], dtype=torch.bool)
    if lower >= 0:
        keep &= row - column <= lower
    if upper >= 0:
        keep &= column - row <= upper
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


@implements("pad")
def pad(call: OpCall) -> Tensor:
    """Pad the last len(pad) / 2 dimensions: (before, after) of each, first dimension first."""
    x, amounts, mode = call.tensor("x"), call.ints("pad"), call.text("mode", "constant")
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return functional.pad(x, flat, value=call.number("constant_val", 0.0))
    for axis, (before, after) in zip(range(x.dim() - len(pairs), x.dim()), pairs, strict=True):
        size = x.shape[axis]
        places = torch.arange(-before, size + after)
        if mode == "reflect":
            if max(before, after) > size - 1:
                raise ValueError(f"reflection by {max(before, after)} of {size} elements")
            places = size - 1 - (size - 1 - places.abs()).abs()
        elif mode == "replicate":
            places = places.clamp(0, size - 1)
        else:
            raise call.unsupported(f"has mode {mode}")
        x = x.index_select(axis, places)
    return x
