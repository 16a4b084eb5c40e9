"""Normalization layers; variances are biased (divided by n)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


def _standardize(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centered = x - x.mean(axes, keepdim=True)
    return centered / torch.sqrt(centered.square().mean(axes, keepdim=True) + epsilon)


def _affine(call: OpCall, x: Tensor, shape: list[int]) -> Tensor:
    """gamma * x + beta, each optional, in ``shape``."""
    gamma, beta = call.optional("gamma"), call.optional("beta")
    if gamma is not None:
        x = x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def _per_channel(x: Tensor) -> list[int]:
    return [1, -1] + [1] * (x.dim() - 2)


@implements("layer_norm")
def layer_norm(call: OpCall) -> Tensor:
    """Normalize over ``axes`` (all when absent); gamma and beta have the shape of those axes."""
    x = call.tensor("x")
    axes = sorted(axis % x.dim() for axis in call.ints("axes", range(x.dim())))
    if axes == list(range(x.dim() - len(axes), x.dim())):
        sizes = list(x.shape[axes[0] :])
        return functional.layer_norm(x, sizes, call.optional("gamma"), call.optional("beta"), call.number("epsilon", 1e-5))
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    return _affine(call, _standardize(x, axes, call.number("epsilon", 1e-5)), shape)


@implements("instance_norm")
def instance_norm(call: OpCall) -> Tensor:
    """Normalize each channel of each sample of x [n, C, *d] over the spatial dimensions."""
    x = call.tensor("x")
    return _affine(call, _standardize(x, list(range(2, x.dim())), call.number("epsilon", 1e-5)), _per_channel(x))


@implements("batch_norm")
def batch_norm(call: OpCall) -> Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta for x [n, C, *d] with constant mean and variance [C]."""
    x = call.tensor("x")
    shape = _per_channel(x)
    mean, variance = call.tensor("mean").reshape(shape), call.tensor("variance").reshape(shape)
    return _affine(call, (x - mean) / torch.sqrt(variance + call.number("epsilon", 1e-5)), shape)
