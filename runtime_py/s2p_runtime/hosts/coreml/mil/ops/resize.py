"""Resizing the last two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from s2p_runtime.hosts.coreml.mil.calls import OpCall, implements


def _take_nearest(x: Tensor, height: int, width: int, scales: tuple[float, float]) -> Tensor:
    """Output i takes input floor(i / scale)."""
    for axis, size, scale in ((-2, height, scales[0]), (-1, width, scales[1])):
        # float64 quotients of small integers: exact where they are integers, so floor never falls one short.
        places = torch.floor(torch.arange(size, dtype=torch.float64) / scale).long().clamp(max=x.shape[axis] - 1)
        x = x.index_select(axis, places)
    return x


def _grid(mode: str, size_in: int, size_out: int) -> Tensor:
    """Sampling positions, float64 [size_out], by the formulas of ``resize_bilinear``'s documentation."""
    i = torch.arange(size_out, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and size_out == 1:
        return torch.full((1,), (size_in - 1) / 2, dtype=torch.float64)
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        places = i * ((size_in - 1) / max(1, size_out - 1))
    elif mode == "DEFAULT":
        places = i * (size_in / size_out)
    elif mode == "UNALIGN_CORNERS":
        places = (i + 0.5) * (size_in / size_out) - 0.5
    elif mode == "OFFSET_CORNERS":
        places = (i + 0.5) * (max(1, size_in - 1) / size_out)
    else:
        raise ValueError(f"sampling mode {mode}")
    return places.clamp(0, size_in - 1)


def _interpolate(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    for axis, size in ((-2, height), (-1, width)):
        places = _grid(mode, x.shape[axis], size)
        low = places.floor().long()
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        weight = (places - low).to(x.dtype).reshape([-1, 1] if axis == -2 else [-1])
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + weight * (above - below)
    return x


@implements("upsample_nearest_neighbor")
def upsample_nearest_neighbor(call: OpCall) -> Tensor:
    """floor(H * scale) rows, each the row floor(i / scale)."""
    x = call.tensor("x")
    scales = (call.number("scale_factor_height", 1.0), call.number("scale_factor_width", 1.0))
    return _take_nearest(x, int(x.shape[-2] * scales[0]), int(x.shape[-1] * scales[1]), scales)


@implements("resize_nearest_neighbor")
def resize_nearest_neighbor(call: OpCall) -> Tensor:
    x = call.tensor("x")
    height, width = call.integer("target_size_height"), call.integer("target_size_width")
    return _take_nearest(x, height, width, (height / x.shape[-2], width / x.shape[-1]))


@implements("upsample_bilinear")
def upsample_bilinear(call: OpCall) -> Tensor:
    """Bilinear; scales are recomputed from the integer output size."""
    x = call.tensor("x")
    height = int(x.shape[-2] * call.number("scale_factor_height", 1.0))
    width = int(x.shape[-1] * call.number("scale_factor_width", 1.0))
    aligned = call.flag("align_corners", True)
    if call.flag("half_pixel_centers", not aligned):
        if aligned:
            raise call.unsupported("has both align_corners and half_pixel_centers")
        return _interpolate(x, height, width, "UNALIGN_CORNERS")
    return _interpolate(x, height, width, "STRICT_ALIGN_CORNERS" if aligned else "DEFAULT")


@implements("resize_bilinear")
def resize_bilinear(call: OpCall) -> Tensor:
    height, width = call.integer("target_size_height", 1), call.integer("target_size_width", 1)
    return _interpolate(call.tensor("x"), height, width, call.text("sampling_mode", "DEFAULT"))
