"""Activation functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


@implements("relu")
def relu(call: OpCall) -> Tensor:
    return torch.relu(call.tensor("x"))


@implements("relu6")
def relu6(call: OpCall) -> Tensor:
    return torch.clamp(call.tensor("x"), 0.0, 6.0)


@implements("leaky_relu")
def leaky_relu(call: OpCall) -> Tensor:
    """x where x >= 0, else alpha * x."""
    x = call.tensor("x")
    return torch.where(x >= 0, x, call.number("alpha") * x)


@implements("elu")
def elu(call: OpCall) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    x = call.tensor("x")
    return torch.where(x > 0, x, call.number("alpha") * torch.expm1(x))


@implements("sigmoid")
def sigmoid(call: OpCall) -> Tensor:
    return torch.sigmoid(call.tensor("x"))


@implements("sigmoid_hard")
def sigmoid_hard(call: OpCall) -> Tensor:
    """min(max(alpha * x + beta, 0), 1)."""
    return torch.clamp(call.number("alpha") * call.tensor("x") + call.number("beta"), 0.0, 1.0)


@implements("silu")
def silu(call: OpCall) -> Tensor:
    return functional.silu(call.tensor("x"))


@implements("softplus")
def softplus(call: OpCall) -> Tensor:
    """log(1 + exp(x))."""
    x = call.tensor("x")
    return torch.logaddexp(x, torch.zeros_like(x))


@implements("softsign")
def softsign(call: OpCall) -> Tensor:
    """x / (1 + abs(x))."""
    return functional.softsign(call.tensor("x"))


@implements("linear_activation")
def linear_activation(call: OpCall) -> Tensor:
    """alpha * x + beta."""
    return call.number("alpha") * call.tensor("x") + call.number("beta")


@implements("gelu")
def gelu(call: OpCall) -> Tensor:
    """EXACT: x Phi(x). TANH_APPROXIMATION: Hendrycks & Gimpel (2016). SIGMOID_APPROXIMATION: x sigmoid(1.702 x)."""
    x, mode = call.tensor("x"), call.text("mode", "EXACT")
    if mode == "EXACT":
        return functional.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise call.unsupported(f"has mode {mode}")


@implements("softmax")
def softmax(call: OpCall) -> Tensor:
    return torch.softmax(call.tensor("x"), call.integer("axis", -1))
