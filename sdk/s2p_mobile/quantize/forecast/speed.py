"""How fast devices compute: this one by timing layers of the model, others by formula."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from s2p_mobile.quantize.forecast.counting import LayerWork

PROBED_LAYERS = 4
"""Layers timed here: of those with different shapes, the ones with the most operations in the whole network."""
_PROBE_SECONDS = 0.4
_LARGEST_PROBE = 2e11
"""Operations of a probed pass; larger inputs are cut."""

UTILISATION = 0.3
"""Share of its peak that a GPU reaches in training a U-Net with fake quantization; diffusion training reaches 0.3 to 0.5 without."""
LAUNCH_SECONDS = 1e-5
"""What an operation takes on a GPU at least, however small: python, dispatch and the kernel's launch. It decides for small models."""
HOST_SHARE = 0.5
"""Share of the probed layers' speed that this machine reaches in the whole network, whose norms, attention and rounding the probe
leaves out. Measured with the demo model on a CPU."""


@dataclass(frozen=True)
class Device:
    """A device and its peak in floating-point operations a second, dense, as its maker states them."""

    name: str
    fp32: float
    bf16: float | None
    memory: int


GIB = 2**30
GPUS = (
    Device("NVIDIA T4 16 GB", 8.1e12, None, 16 * GIB),
    Device("NVIDIA RTX 3090 24 GB", 35.6e12, 71e12, 24 * GIB),
    Device("NVIDIA RTX 4090 24 GB", 82.6e12, 165e12, 24 * GIB),
    Device("NVIDIA A100 40 GB", 19.5e12, 312e12, 40 * GIB),
    Device("NVIDIA H100 SXM 80 GB", 67e12, 989e12, 80 * GIB),
)
"""Peaks of the vendor's data sheets: fp32 outside of tensor cores, bf16 on tensor cores without sparsity."""


def probe(layers: Sequence[LayerWork], device: torch.device) -> float:
    """Operations a second of this machine in forward and backward passes of the model's own largest layers."""
    by_shape: dict[object, tuple[LayerWork, int]] = {}
    for work in layers:
        spec = work.spec
        key = (spec.kind, spec.weight_shape, spec.stride, work.input_shape)
        first, total = by_shape.get(key, (work, 0))
        by_shape[key] = (first, total + work.flops)
    chosen = sorted(by_shape.values(), key=lambda pair: -pair[1])[:PROBED_LAYERS]
    rates = [(total, _rate(work, device)) for work, total in chosen]
    return sum(total for total, _ in rates) / sum(total / rate for total, rate in rates)


def _rate(work: LayerWork, device: torch.device) -> float:
    """Operations a second of one layer, forward and backward (three times the forward pass)."""
    spec, shape, flops = work.spec, list(work.input_shape), work.flops
    axis = 1 if spec.kind == "linear" else 2
    while 3 * flops > _LARGEST_PROBE and shape[axis] >= 16:
        shape[axis], flops = shape[axis] // 2, flops // 2
    module: nn.Module
    if spec.kind == "linear":
        module = nn.Linear(spec.in_channels, spec.out_channels, bias=False)
    else:
        module = nn.Conv2d(spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.padding, bias=False)
    module = module.to(device)
    x = torch.randn(shape, device=device, requires_grad=True)
    grad = torch.randn_like(module(x))
    done, began = 0, 0.0
    while done == 0 or time.perf_counter() - began < _PROBE_SECONDS:
        if done == 1:  # the first pass warms up
            began = time.perf_counter()
        module(x).backward(grad)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        done += 1
        if done == 1:
            began = time.perf_counter()
    return 3 * flops * max(1, done - 1) / (time.perf_counter() - began)
