"""Gathers."""

from __future__ import annotations

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


def _indices(call: OpCall, sizes: Tensor) -> Tensor:
    """``indices`` as non-negative int64. ``sizes`` broadcasts against them.

    Up to iOS 16 negative indices count from the end. From iOS 17 (the operations then have ``validate_indices``) they are
    out of bounds. An index out of bounds is undefined on a device without validation; here it is always an error.
    """
    indices = call.tensor("indices").to(torch.int64)
    if not call.has("validate_indices"):
        indices = torch.where(indices < 0, indices + sizes, indices)
    if bool(((indices < 0) | (indices >= sizes)).any()):
        raise IndexError("an index is out of bounds")
    return indices


@implements("gather")
def gather(call: OpCall) -> Tensor:
    """x[:axis] + [indices] + x[axis+1:]; the first ``batch_dims`` dimensions of both are matched one to one."""
    x, batch = call.tensor("x"), call.integer("batch_dims", 0)
    axis = call.integer("axis", 0) % x.dim()
    indices = _indices(call, torch.tensor(x.shape[axis]))
    if batch == 0:
        taken = x.index_select(axis, indices.reshape(-1))
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    rows, picks = x.flatten(0, batch - 1), indices.flatten(0, batch - 1)
    inner = axis - batch
    shape = (*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])
    parts = [row.index_select(inner, pick.reshape(-1)) for row, pick in zip(rows, picks, strict=True)]
    return torch.stack(parts).reshape(shape)


@implements("gather_along_axis")
def gather_along_axis(call: OpCall) -> Tensor:
    """NumPy's take_along_axis."""
    x = call.tensor("x")
    axis = call.integer("axis", 0) % x.dim()
    return torch.take_along_dim(x, _indices(call, torch.tensor(x.shape[axis])), axis)


@implements("gather_nd")
def gather_nd(call: OpCall) -> Tensor:
    """The last dimension of ``indices`` addresses leading dimensions of x, after ``batch_dims`` matched ones."""
    x, batch = call.tensor("x"), call.integer("batch_dims", 0)
    depth = call.tensor("indices").shape[-1]
    indices = _indices(call, torch.tensor(x.shape[batch : batch + depth]))
    if batch == 0:
        return x[tuple(indices.unbind(-1))]
    rows, picks = x.flatten(0, batch - 1), indices.flatten(0, batch - 1)
    parts = [row[tuple(pick.unbind(-1))] for row, pick in zip(rows, picks, strict=True)]
    return torch.stack(parts).reshape(*indices.shape[:-1], *x.shape[batch + depth :])
