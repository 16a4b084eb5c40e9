"""Arithmetic in float64, which phones' and Macs' graphics processors do not have: on the processor, whatever the networks' device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_double(value: Tensor) -> Tensor:
    """A tensor of any device, float64 on the processor."""
    # Two steps: a device without float64 must not be asked for the conversion.
    return value.detach().to("cpu").to(torch.float64)


def through_double(change: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """``change`` of a tensor, computed in float64 on the processor; float32, where the tensor is."""
    if value.is_meta:
        return torch.empty_like(value, dtype=torch.float32)
    return change(in_double(value)).to(torch.float32).to(value.device)


def square_sum(value: Tensor) -> float:
    """Sum of squares, added up in float64: for tensors of the size of an output."""
    return float(in_double(value).square().sum())
