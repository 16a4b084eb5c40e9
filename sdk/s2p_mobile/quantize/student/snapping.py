"""Roundings of learned values that are part of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd import Function


class Snap(Function):
    """A rounding of values whose gradient passes as if it were not there."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, snap: Callable[[Tensor], Tensor]) -> Tensor:
        return snap(value).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None
