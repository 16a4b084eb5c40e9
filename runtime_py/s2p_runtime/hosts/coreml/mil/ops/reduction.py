"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import IMPLEMENTATIONS, OpCall, implements


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=keep)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "reduce_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "reduce_mean": _mean,
    "reduce_max": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "reduce_prod": _product,
    "reduce_sum_square": lambda x, axes, keep: x.square().sum(axes, keepdim=keep),
    "reduce_l1_norm": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "reduce_log_sum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


def _over_axes(reduce: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[OpCall], Tensor]:
    def evaluate(call: OpCall) -> Tensor:
        x = call.tensor("x")
        axes = sorted(axis % x.dim() for axis in call.ints("axes", range(x.dim())))
        return reduce(x, axes, call.flag("keep_dims"))

    return evaluate


IMPLEMENTATIONS.update({kind: _over_axes(reduce) for kind, reduce in _REDUCTIONS.items()})


@implements("reduce_argmax", "reduce_argmin")
def reduce_arg(call: OpCall) -> Tensor:
    """Index of the extreme value along ``axis``; of ties, one is returned (which one is unspecified)."""
    x, axis, keep = call.tensor("x"), call.integer("axis", -1), call.flag("keep_dims")
    find = torch.argmax if call.operation.kind == "reduce_argmax" else torch.argmin
    return find(x, dim=axis, keepdim=keep)


@implements("cumsum")
def cumsum(call: OpCall) -> Tensor:
    """Cumulative sum along ``axis``; ``exclusive`` leaves the element itself out, ``reverse`` sums from the end."""
    x, axis = call.tensor("x"), call.integer("axis", 0)
    if call.flag("reverse"):
        x = x.flip(axis)
    total = torch.cumsum(x, axis)
    if call.flag("exclusive"):
        total = total - x
    return total.flip(axis) if call.flag("reverse") else total
