"""Second moments of the layers' inputs over a set of FP calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet

MAX_COLUMNS = 2304
"""Widest block of columns whose mutual moments are kept: all of them up to 256 channels under a 3x3 kernel. Wider layers get blocks
of whole channels, so that a layer's moments take at most this many floats for each of its columns."""

MEMORY_BYTES = 2 * 2**30
"""Moments kept at a time; a model that needs more runs its calls several times."""


@dataclass(frozen=True)
class WeightedCalls:
    """n samples of U-Net calls, and how much each counts.

    Attributes:
        samples: scaled states, float32 [n, C, H, W].
        calls: call indices, int64 [n].
        conditions: what the denoiser is told, float32 [n, ...] each.
        weights: float32 [n].
    """

    samples: Tensor
    calls: Tensor
    conditions: tuple[Tensor, ...]
    weights: Tensor


def block_columns(spec: LayerSpec) -> int:
    """Columns of a block of this layer: all, or as many whole channels as fit, evenly divided."""
    kernel = spec.kernel**2
    blocks = 1
    while spec.in_channels % blocks or spec.in_channels // blocks * kernel > MAX_COLUMNS:
        blocks += 1
        if blocks >= spec.in_channels:
            return kernel
    return spec.in_channels // blocks * kernel


def _columns(spec: LayerSpec, x: Tensor) -> Tensor:
    """What a layer's weights are multiplied with: one sample [1, C, H, W] or [1, N, C] -> [d, positions]."""
    if spec.kind == "linear":
        return x.flatten(0, -2).T
    return F.unfold(x, spec.kernel, padding=spec.padding, stride=spec.stride)[0]


@torch.no_grad()
def input_moments(
    unet: StepUNet, specs: Sequence[LayerSpec], batches: Callable[[], Iterator[WeightedCalls]]
) -> Iterator[tuple[LayerSpec, Tensor]]:
    """Yield ``sum weight x x^T`` of every layer over all samples and positions, float32 [G, d, d], d of :func:`block_columns`.

    Args:
        unet: the FP graph.
        specs: the layers wanted.
        batches: gives the calls; asked again for each group of layers whose moments fit into ``MEMORY_BYTES``.
    """
    for group in _groups(specs):
        sums = _Sums(unet, group)
        try:
            for batch in batches():
                sums.weights = batch.weights
                unet(batch.samples, batch.calls, *batch.conditions)
        finally:
            sums.close()
        for spec in group:
            yield spec, sums.totals.pop(spec.name)


class _Sums:
    """Adds up the moments of some layers while a graph runs.

    Attributes:
        totals: layer -> [G, d, d].
        weights: of the samples of the call that comes, float32 [n].
    """

    def __init__(self, unet: StepUNet, specs: Sequence[LayerSpec]) -> None:
        modules = dict(unet.named_modules())
        self.weights = torch.zeros(0)
        self.totals = {spec.name: _zeros(spec, unet) for spec in specs}
        self._handles = [modules[spec.name].register_forward_pre_hook(self._hook(spec)) for spec in specs]

    def _hook(self, spec: LayerSpec) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        total = self.totals[spec.name]

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for x, weight in zip(inputs[0].split(1), self.weights, strict=True):
                columns = _columns(spec, x.float()).unflatten(0, (total.shape[0], -1))
                total.baddbmm_(columns * weight, columns.transpose(1, 2))

        return add

    def close(self) -> None:
        """Leave the graph as it was."""
        for handle in self._handles:
            handle.remove()


def _zeros(spec: LayerSpec, unet: StepUNet) -> Tensor:
    width = block_columns(spec)
    blocks = spec.in_channels * spec.kernel**2 // width
    return torch.zeros(blocks, width, width, device=unet.device)


def _groups(specs: Sequence[LayerSpec]) -> Iterator[list[LayerSpec]]:
    """Consecutive layers whose moments fit into the memory; a layer that alone does not is a group of its own."""
    group: list[LayerSpec] = []
    taken = 0
    for spec in specs:
        need = 4 * spec.in_channels * spec.kernel**2 * block_columns(spec)
        if group and taken + need > MEMORY_BYTES:
            yield group
            group, taken = [], 0
        group.append(spec)
        taken += need
    if group:
        yield group
