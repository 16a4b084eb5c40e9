"""Second moments of the layers' inputs over a set of FP calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2p_converters.core.graph import LayerSpec, StepUNet
from s2p_mobile.quantize.stages import LayerWork, Piece
from s2p_mobile.quantize.stages.parts import LARGEST_PIECE
from s2p_mobile.quantize.stages.stage import Run

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
        specs: the layers wanted, no more than a group of :func:`layer_groups`.
        batches: gives the calls.
    """
    sums = _Sums(unet, specs)
    try:
        for batch in batches():
            sums.weights = batch.weights
            unet(batch.samples, batch.calls, *batch.conditions)
    finally:
        sums.close()
    for spec in specs:
        yield spec, sums.totals.pop(spec.name)


def _add(spec: LayerSpec, x: Tensor, weight: Tensor, total: Tensor) -> None:
    """One sample's moments."""
    columns = _columns(spec, x.float()).unflatten(0, (total.shape[0], -1))
    total.baddbmm_(columns * weight, columns.transpose(1, 2))


class _Sums:
    """Adds up the moments of some layers while a graph runs.

    Attributes:
        totals: layer -> [G, d, d].
        weights: of the samples of the call that comes, float32 [n].
    """

    def __init__(self, unet: StepUNet, specs: Sequence[LayerSpec]) -> None:
        modules = dict(unet.named_modules())
        self.weights = torch.zeros(0)
        self.totals = {spec.name: _zeros(spec, unet.device) for spec in specs}
        self._handles = [modules[spec.name].register_forward_pre_hook(self._hook(spec)) for spec in specs]

    def _hook(self, spec: LayerSpec) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        total = self.totals[spec.name]

        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for x, weight in zip(inputs[0].split(1), self.weights, strict=True):
                _add(spec, x, weight, total)

        return add

    def close(self) -> None:
        """Leave the graph as it was."""
        for handle in self._handles:
            handle.remove()


def moment_shape(spec: LayerSpec) -> tuple[int, int, int]:
    """[G, d, d] of a layer's moments."""
    width = block_columns(spec)
    return spec.in_channels * spec.kernel**2 // width, width, width


def moment_bytes(spec: LayerSpec) -> int:
    """Memory of a layer's moments."""
    blocks, width, _ = moment_shape(spec)
    return 4 * blocks * width**2


def _zeros(spec: LayerSpec, device: torch.device) -> Tensor:
    return torch.zeros(moment_shape(spec), device=device)


def layer_groups(specs: Sequence[LayerSpec]) -> Iterator[list[LayerSpec]]:
    """Consecutive layers whose moments fit into the memory; a layer that alone does not is a group of its own."""
    group: list[LayerSpec] = []
    taken = 0
    for spec in specs:
        need = moment_bytes(spec)
        if group and taken + need > MEMORY_BYTES:
            yield group
            group, taken = [], 0
        group.append(spec)
        taken += need
    if group:
        yield group


def moment_pieces(layers: Sequence[LayerWork], samples: int) -> list[Piece]:
    """The moments of so many samples, without the passes that bring them."""
    pieces = []
    for layer in layers:
        spec, shape, count = layer.spec, list(layer.input_shape), float(samples)
        blocks, width, _ = moment_shape(spec)
        flops = 2 * blocks * width**2 * (layer.flops / (2 * spec.weights))
        axis = 1 if spec.kind == "linear" else 2
        while flops > LARGEST_PIECE and shape[axis] >= 2 * spec.kernel + 2:
            shape[axis], flops, count = shape[axis] // 2, flops / 2, count * 2
        key = (spec.kind, spec.kernel, spec.stride, tuple(shape))
        pieces.append(Piece("second moments", key, count, flops, _moments_of(spec, tuple(shape))))
    return pieces


def _moments_of(spec: LayerSpec, shape: tuple[int, ...]) -> Callable[[torch.device], Run]:
    def prepare(device: torch.device) -> Run:
        x, weight, total = torch.randn(shape, device=device), torch.ones((), device=device), _zeros(spec, device)
        return lambda: _add(spec, x, weight, total)

    return prepare
