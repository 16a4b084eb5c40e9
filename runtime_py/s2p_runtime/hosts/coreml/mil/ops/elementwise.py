"""Elementwise arithmetic, comparison and logic, with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import IMPLEMENTATIONS, OpCall, implements


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    # float64 holds every int32 quotient's integer part; the declared integer dtype then truncates.
    return x / y if x.is_floating_point() else x.double() / y.double()


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": _real_div,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": lambda x: torch.exp2(x) if x.is_floating_point() else torch.exp2(x.double()),
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # half to even
    "sign": torch.sign,
    "sin": torch.sin,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tanh": torch.tanh,
    # The declared output dtype does the conversion; float to integer truncates toward zero.
    "cast": lambda x: x,
    "identity": lambda x: x,
}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[OpCall], Tensor]:
    return lambda call: function(call.tensor("x"), call.tensor("y"))


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[OpCall], Tensor]:
    return lambda call: function(call.tensor("x"))


IMPLEMENTATIONS.update({kind: _binary(function) for kind, function in _BINARY.items()})
IMPLEMENTATIONS.update({kind: _unary(function) for kind, function in _UNARY.items()})


@implements("rsqrt")
def rsqrt(call: OpCall) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(call.tensor("x") + call.number("epsilon", 1e-12))


@implements("inverse")
def inverse(call: OpCall) -> Tensor:
    """1 / (x + epsilon)."""
    return torch.reciprocal(call.tensor("x") + call.number("epsilon", 1e-4))


@implements("log")
def log(call: OpCall) -> Tensor:
    """log(x + epsilon)."""
    return torch.log(call.tensor("x") + call.number("epsilon", 1e-45))


@implements("clip")
def clip(call: OpCall) -> Tensor:
    """min(max(x, alpha), beta)."""
    return torch.clamp(call.tensor("x"), call.number("alpha"), call.number("beta"))


@implements("threshold")
def threshold(call: OpCall) -> Tensor:
    """max(x, alpha)."""
    return torch.maximum(call.tensor("x"), call.tensor("alpha"))


@implements("select")
def select(call: OpCall) -> Tensor:
    """``a`` where ``cond``, else ``b``."""
    if not (call.has("a") and call.has("b")):
        raise call.unsupported("selects indices (no a and b)")
    return torch.where(call.tensor("cond").bool(), call.tensor("a"), call.tensor("b"))
