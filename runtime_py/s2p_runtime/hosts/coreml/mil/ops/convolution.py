"""Convolution and transposed convolution over one to three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements

# Values of unfolded input held at once: 512 MiB. torch's float64 convolution unfolds its input, which in the decoder of SDXL's VAE
# (256 channels of 1024x1024) would take 18 GiB.
_UNFOLDED_AT_ONCE = 1 << 26


def _flat_padding(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """(before, after) of each spatial dimension in torch's order: last dimension first."""
    return [amount for pair in reversed(pairs) for amount in pair]


def _same_padding(size: int, kernel: int, stride: int, lower: bool) -> tuple[int, int]:
    """Padding that gives ceil(size / stride) outputs; an odd element goes after the data, or before it (``same_lower``)."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


@implements("conv")
def conv(call: OpCall) -> Tensor:
    """x [n, C_in, *d], weight [C_out, C_in / groups, *k] -> [n, C_out, *d_out], zero padding."""
    x, weight = call.tensor("x"), call.tensor("weight")
    rank = x.dim() - 2
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    pad_type = call.text("pad_type", "valid")
    if pad_type == "valid":
        pairs = [(0, 0)] * rank
    elif pad_type == "custom":
        pad = call.ints("pad", [0] * (2 * rank))
        pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(rank)]
    elif pad_type in ("same", "same_lower"):
        kernels = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
        pairs = [
            _same_padding(size, kernel, stride, pad_type == "same_lower")
            for size, kernel, stride in zip(x.shape[2:], kernels, strides, strict=True)
        ]
    else:
        raise call.unsupported(f"has pad_type {pad_type}")
    groups = call.integer("groups", 1)
    unfolded = x.numel() * math.prod(weight.shape[2:])
    if rank == 2 and x.dtype == torch.float64 and max(weight.shape[2:]) > 1 and unfolded > _UNFOLDED_AT_ONCE:
        padded = functional.pad(x, _flat_padding(pairs))
        return _rows_at_a_time(padded, weight, call.optional("bias"), strides, dilations, groups)
    padding: list[int] | int = 0
    if all(before == after for before, after in pairs):
        padding = [before for before, _ in pairs]
    else:
        x = functional.pad(x, _flat_padding(pairs))
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    result: Tensor = convolve(
        x, weight, call.optional("bias"), stride=strides, padding=padding, dilation=dilations, groups=groups
    )
    return result


def _rows_at_a_time(
    x: Tensor, weight: Tensor, bias: Tensor | None, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Tensor:
    """conv2d of an input that is padded already, some rows of the output after the other."""
    reach = (weight.shape[2] - 1) * dilations[0] + 1
    rows = (x.shape[2] - reach) // strides[0] + 1
    row_values = x.shape[0] * x.shape[1] * x.shape[3] * math.prod(weight.shape[2:]) // strides[1]
    step = max(1, _UNFOLDED_AT_ONCE // row_values)
    parts = []
    for start in range(0, rows, step):
        first, last = start * strides[0], (min(start + step, rows) - 1) * strides[0]
        part = x[:, :, first : last + reach]
        parts.append(functional.conv2d(part, weight, bias, stride=strides, dilation=dilations, groups=groups))
    return torch.cat(parts, dim=2)


@implements("conv_transpose")
def conv_transpose(call: OpCall) -> Tensor:
    """x [n, C_in, *d], weight [C_in, C_out / groups, *k] -> [n, C_out, *d_out].

    The unpadded result is cropped by ``pad``; with ``output_shape`` the crop after the data follows from the size.
    """
    x, weight = call.tensor("x"), call.tensor("weight")
    rank = x.dim() - 2
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    transpose = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[rank]
    full: Tensor = transpose(x, weight, None, stride=strides, dilation=dilations, groups=call.integer("groups", 1))
    pad_type = call.text("pad_type", "valid")
    if pad_type == "valid":
        pairs = [(0, 0)] * rank
    elif pad_type == "custom":
        pad = call.ints("pad", [0] * (2 * rank))
        pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(rank)]
    elif pad_type == "same" and not call.has("output_shape"):
        excess = [size - n * stride for size, n, stride in zip(full.shape[2:], x.shape[2:], strides, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in excess]
    else:
        raise call.unsupported(f"has pad_type {pad_type} and an output shape")
    if call.has("output_shape"):
        sizes = call.ints("output_shape")[2:]
        pairs = [(pair[0], full.shape[2 + i] - pair[0] - sizes[i]) for i, pair in enumerate(pairs)]
    # Negative padding crops; a negative crop (output padding) extends with zeros, to which the bias is added below.
    result = functional.pad(full, [-amount for amount in _flat_padding(pairs)])
    bias = call.optional("bias")
    return result if bias is None else result + bias.reshape(1, -1, *[1] * rank)


@implements("max_pool", "avg_pool")
def pool(call: OpCall) -> Tensor:
    """Pooling with ``valid`` or ``custom`` padding and floor rounding."""
    x = call.tensor("x")
    rank = x.dim() - 2
    kernel, strides = call.ints("kernel_sizes"), call.ints("strides", [1] * rank)
    pad_type = call.text("pad_type", "valid")
    if call.flag("ceil_mode") or pad_type not in ("valid", "custom"):
        raise call.unsupported(f"has pad_type {pad_type} or ceil_mode")
    pad = call.ints("pad", [0] * (2 * rank)) if pad_type == "custom" else [0] * (2 * rank)
    pairs = _flat_padding([(pad[2 * i], pad[2 * i + 1]) for i in range(rank)])
    maximum = call.operation.kind == "max_pool"
    padded = functional.pad(x, pairs, value=float("-inf") if maximum else 0.0)
    windows = padded
    for axis in range(rank):
        windows = windows.unfold(2 + axis, kernel[axis], strides[axis])
    axes = tuple(range(x.dim(), x.dim() + rank))
    if maximum:
        return windows.amax(axes)
    if not call.flag("exclude_padding_from_average"):
        return windows.mean(axes)
    inside = functional.pad(torch.ones_like(x), pairs)
    for axis in range(rank):
        inside = inside.unfold(2 + axis, kernel[axis], strides[axis])
    return windows.sum(axes) / inside.sum(axes)
