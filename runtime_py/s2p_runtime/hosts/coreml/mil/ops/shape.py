"""Operations that move elements without changing them: reshape, transpose, concat, split, slices."""

from __future__ import annotations

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


@implements("reshape")
def reshape(call: OpCall) -> Tensor:
    """-1 stands for one inferred size; 0 keeps the input's size when the ranks are equal."""
    x, shape = call.tensor("x"), call.ints("shape")
    if len(shape) == x.dim():
        shape = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return x.reshape(shape)


@implements("transpose")
def transpose(call: OpCall) -> Tensor:
    return call.tensor("x").permute(call.ints("perm"))


@implements("expand_dims")
def expand_dims(call: OpCall) -> Tensor:
    """Insert dimensions of size 1; ``axes`` index the result."""
    x, axes = call.tensor("x"), call.ints("axes")
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@implements("squeeze")
def squeeze(call: OpCall) -> Tensor:
    """Drop dimensions of size 1: those in ``axes`` (others there are left alone), or all."""
    x = call.tensor("x")
    if not call.has("axes"):
        return x.squeeze()
    return x.squeeze(tuple(call.ints("axes")))


@implements("concat")
def concat(call: OpCall) -> Tensor:
    """Join along ``axis``; ``interleave`` takes one slice of each operand in turn."""
    values, axis = call.tensors("values"), call.integer("axis")
    if not call.flag("interleave"):
        return torch.cat(values, axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@implements("stack")
def stack(call: OpCall) -> Tensor:
    values = call.tensors("values")
    return torch.stack(values, call.integer("axis"))


@implements("split")
def split(call: OpCall) -> list[Tensor]:
    """Into ``split_sizes``, or into ``num_splits`` equal parts."""
    x, axis = call.tensor("x"), call.integer("axis")
    if call.has("split_sizes"):
        return list(torch.split(x, call.ints("split_sizes"), axis))
    parts = call.integer("num_splits")
    if x.shape[axis] % parts:
        raise ValueError(f"{x.shape[axis]} elements do not divide into {parts} parts")
    return list(torch.split(x, x.shape[axis] // parts, axis))


@implements("tile")
def tile(call: OpCall) -> Tensor:
    return call.tensor("x").repeat(call.ints("reps"))


@implements("slice_by_index")
def slice_by_index(call: OpCall) -> Tensor:
    """NumPy's x[begin:end:stride]; masks drop a bound, ``squeeze_mask`` takes the single element at ``begin``."""
    x = call.tensor("x")
    rank = x.dim()
    begin, end, stride = call.ints("begin"), call.ints("end"), call.ints("stride", [1] * rank)
    begin_mask, end_mask = call.ints("begin_mask", [0] * rank), call.ints("end_mask", [0] * rank)
    squeeze_mask = call.ints("squeeze_mask", [0] * rank)
    for axis in reversed(range(rank)):
        first = None if begin_mask[axis] else begin[axis]
        if squeeze_mask[axis]:
            x = x.select(axis, first or 0)
            continue
        indices = range(*slice(first, None if end_mask[axis] else end[axis], stride[axis]).indices(x.shape[axis]))
        if indices.step == 1:
            x = x.narrow(axis, indices.start, len(indices)) if len(indices) else x.narrow(axis, 0, 0)
        else:
            x = x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64))
    return x


@implements("slice_by_size")
def slice_by_size(call: OpCall) -> Tensor:
    """``size`` elements from ``begin`` along each dimension; -1 takes the rest."""
    x, begin, size = call.tensor("x"), call.ints("begin"), call.ints("size")
    for axis in range(x.dim()):
        start = begin[axis] % x.shape[axis]
        x = x.narrow(axis, start, x.shape[axis] - start if size[axis] == -1 else size[axis])
    return x
